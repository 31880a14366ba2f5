// Package contain keeps a defect in one goroutine from ending the process. What
// strangers wrote is parsed in many of them, by code of many authors, while
// containers read through the same process.
package contain

import (
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
)

// Panic runs f and returns its error. A panic of f is logged with its stack and
// becomes an error with reason.Internal; doing says what f does, for both.
func Panic(log *zap.Logger, doing string, f func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.Error("recovered from a panic", zap.String("doing", doing), zap.Any("panic", panicked), zap.Stack("stack"))
			err = reason.Errorf(reason.Internal, "%s panicked: %v", doing, panicked)
		}
	}()
	return f()
}
