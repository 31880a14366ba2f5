package registry

import (
	"context"
	"io"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/logging"
)

// withLogger sends what containerd's code has to say about certs.d (a hosts.toml
// that it cannot parse and goes on without) to ours; what is less than a warning is
// about defaults, at every start.
func withLogger(ctx context.Context, to *zap.Logger) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.AddHook(logging.LogrusHook{To: to, Message: "containerd's host configuration", Least: logrus.WarnLevel, Kept: logrus.WarnLevel})
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}
