package logging

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"
)

// Bridge has everything that libraries log by themselves go to log. They keep their
// loggers in variables of their own: call it once, before anything is started.
func Bridge(log *zap.Logger) {
	grpclog.SetLoggerV2(grpcLog{log.WithOptions(zap.WithCaller(false))})
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.DebugLevel)
	logrus.AddHook(LogrusHook{To: log, Message: "containerd's code", Least: logrus.DebugLevel, Kept: logrus.FatalLevel})
	zap.RedirectStdLog(log)
}

// LogrusHook sends what logrus is told to a zap logger: one constant message, the
// text and the fields beside it.
type LogrusHook struct {
	To      *zap.Logger
	Message string
	Least   logrus.Level // what is less urgent is dropped
	Kept    logrus.Level // what is less urgent is debugging: it also comes back as an error, and is told once
}

// Levels implements logrus.Hook.
func (h LogrusHook) Levels() []logrus.Level { return logrus.AllLevels[:h.Least+1] }

// Fire implements logrus.Hook.
func (h LogrusHook) Fire(entry *logrus.Entry) error {
	line := h.To.Check(h.level(entry.Level), h.Message)
	if line == nil {
		return nil
	}
	fields := []zap.Field{zap.String("message", entry.Message)}
	for key, value := range entry.Data {
		fields = append(fields, zap.Any(key, value))
	}
	line.Write(fields...)
	return nil
}

func (h LogrusHook) level(theirs logrus.Level) zapcore.Level {
	switch {
	case theirs > h.Kept || theirs > logrus.WarnLevel: // Info and less: about defaults, at every start
		return zapcore.DebugLevel
	case theirs == logrus.WarnLevel:
		return zapcore.WarnLevel
	default:
		return zapcore.ErrorLevel
	}
}

// grpcLog is grpc-go's log. Connections to containerd that come and go are told of
// by whoever needs them, so only its errors are more than debugging.
type grpcLog struct{ log *zap.Logger }

var _ grpclog.LoggerV2 = grpcLog{}

func (g grpcLog) tell(level zapcore.Level, text string) {
	if line := g.log.Check(level, "grpc"); line != nil {
		line.Write(zap.String("message", strings.TrimSpace(text)))
	}
}

func (g grpcLog) Info(args ...any)   { g.tell(zapcore.DebugLevel, fmt.Sprint(args...)) }
func (g grpcLog) Infoln(args ...any) { g.tell(zapcore.DebugLevel, fmt.Sprintln(args...)) }
func (g grpcLog) Infof(format string, args ...any) {
	g.tell(zapcore.DebugLevel, fmt.Sprintf(format, args...))
}
func (g grpcLog) Warning(args ...any)   { g.tell(zapcore.DebugLevel, fmt.Sprint(args...)) }
func (g grpcLog) Warningln(args ...any) { g.tell(zapcore.DebugLevel, fmt.Sprintln(args...)) }
func (g grpcLog) Warningf(format string, args ...any) {
	g.tell(zapcore.DebugLevel, fmt.Sprintf(format, args...))
}
func (g grpcLog) Error(args ...any)   { g.tell(zapcore.ErrorLevel, fmt.Sprint(args...)) }
func (g grpcLog) Errorln(args ...any) { g.tell(zapcore.ErrorLevel, fmt.Sprintln(args...)) }
func (g grpcLog) Errorf(format string, args ...any) {
	g.tell(zapcore.ErrorLevel, fmt.Sprintf(format, args...))
}

// The interface wants these to end the process. grpc-go calls them where a program
// misuses it.
func (g grpcLog) Fatal(args ...any)                 { g.fatal(fmt.Sprint(args...)) }
func (g grpcLog) Fatalln(args ...any)               { g.fatal(fmt.Sprintln(args...)) }
func (g grpcLog) Fatalf(format string, args ...any) { g.fatal(fmt.Sprintf(format, args...)) }

func (g grpcLog) fatal(text string) {
	g.tell(zapcore.ErrorLevel, text)
	os.Exit(1)
}

// V reports whether a verbosity is wanted: grpc-go formats nothing that is not.
func (g grpcLog) V(level int) bool { return level <= 0 && g.log.Core().Enabled(zapcore.DebugLevel) }
