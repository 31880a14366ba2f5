package logging

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestLevelChangesWhileLoggersExist(t *testing.T) {
	t.Parallel()
	log, level, err := New("warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	child := log.Named("child")
	enabled := func() bool { return child.Core().Enabled(zapcore.DebugLevel) }
	if enabled() {
		t.Error("debug at level warn")
	}
	if err := level.Set("debug"); err != nil || !enabled() || level.String() != "debug" {
		t.Errorf("after debug was asked for: %v, %s", err, level)
	}
	level.Toggle()
	if enabled() || level.String() != "warn" {
		t.Errorf("toggled from debug to %s, want the configured one", level)
	}
	level.Toggle()
	if !enabled() || level.Configured() != "warn" {
		t.Errorf("toggled to %s, configured %s", level, level.Configured())
	}
	for _, wrong := range []string{"", "loud", "fatal", "panic", "Debug"} {
		if err := level.Set(wrong); !errors.Is(err, ErrNoLevel) {
			t.Errorf("level %q: %v", wrong, err)
		}
	}
	if _, _, err := New("loud", "json"); !errors.Is(err, ErrNoLevel) {
		t.Errorf("configured level: %v", err)
	}
}

// line is one event without its time.
type line struct {
	Level   zapcore.Level
	Message string
	Fields  map[string]any
}

func lines(logs *observer.ObservedLogs) []line {
	var all []line
	for _, entry := range logs.AllUntimed() {
		all = append(all, line{entry.Level, entry.Message, entry.ContextMap()})
	}
	return all
}

func TestLogrusBecomesFields(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kept          logrus.Level
		warned, erred zapcore.Level
	}{
		"its errors come back": {logrus.FatalLevel, zapcore.DebugLevel, zapcore.DebugLevel},
		"only its log tells":   {logrus.WarnLevel, zapcore.WarnLevel, zapcore.ErrorLevel},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zapcore.DebugLevel)
			logger := logrus.New()
			logger.SetOutput(io.Discard)
			logger.SetLevel(logrus.DebugLevel)
			logger.AddHook(LogrusHook{To: zap.New(core), Message: "theirs", Least: logrus.InfoLevel, Kept: test.kept})
			logger.WithField("ref", "r.example/a").Warnf("retry %d", 3)
			logger.Error("broken")
			logger.Info("started")
			logger.Debug("not wanted")
			want := []line{
				{test.warned, "theirs", map[string]any{"message": "retry 3", "ref": "r.example/a"}},
				{test.erred, "theirs", map[string]any{"message": "broken"}},
				{zapcore.DebugLevel, "theirs", map[string]any{"message": "started"}},
			}
			if diff := cmp.Diff(want, lines(logs)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestGRPCBecomesFields(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	g := grpcLog{zap.New(core)}
	g.Warningf("addr %s", "x")
	g.Errorln("broken", 1)
	want := []line{
		{zapcore.DebugLevel, "grpc", map[string]any{"message": "addr x"}},
		{zapcore.ErrorLevel, "grpc", map[string]any{"message": "broken 1"}},
	}
	if diff := cmp.Diff(want, lines(logs)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !g.V(0) || g.V(2) {
		t.Error("at level debug only the first verbosity is wanted")
	}
	quiet := grpcLog{zap.New(core, zap.IncreaseLevel(zapcore.InfoLevel))}
	if quiet.V(0) {
		t.Error("grpc-go formats what nobody sees")
	}
}
