package registry

import (
	"context"
	"io"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
)

// withLogger sends what containerd's code has to say about certs.d (a hosts.toml
// that it cannot parse and goes on without) to ours.
func withLogger(ctx context.Context, to *zap.Logger) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.AddHook(hook{to})
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

// hook passes warnings and errors on; the rest is about defaults, at every start.
type hook struct{ to *zap.Logger }

// Levels implements logrus.Hook.
func (hook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

// Fire implements logrus.Hook.
func (h hook) Fire(entry *logrus.Entry) error {
	fields := []zap.Field{zap.String("message", entry.Message)}
	for key, value := range entry.Data {
		fields = append(fields, zap.Any(key, value))
	}
	h.to.Warn("containerd's host configuration", fields...)
	return nil
}
