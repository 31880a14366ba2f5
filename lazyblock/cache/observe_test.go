package cache

import (
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// observed are log entries to look at.
type observed struct{ logs *observer.ObservedLogs }

func observe() (observed, *zap.Logger) {
	core, logs := observer.New(zapcore.DebugLevel)
	return observed{logs}, zap.New(core)
}

func (o observed) count(part string) (n int) {
	for _, entry := range o.logs.All() {
		if strings.Contains(entry.Message, part) {
			n++
		}
	}
	return n
}
