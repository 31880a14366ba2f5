// Package logging is the daemon's log: one event a line on standard error, with a
// constant message and fields, and a level that can be changed while it runs.
//
// It owns how lines look, and takes in what libraries log in their own ways
// (grpc-go, logrus, the standard library). It never decides what is worth a line.
//
// Goroutines: none.
package logging

import (
	"errors"
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Levels are the names of the levels, the most talkative first.
var levels = []zapcore.Level{zapcore.DebugLevel, zapcore.InfoLevel, zapcore.WarnLevel, zapcore.ErrorLevel}

// Level is what is worth a line, for all loggers of a process. It is safe for
// concurrent use.
type Level struct {
	atomic     zap.AtomicLevel
	configured zapcore.Level
}

// New returns a logger that writes to standard error, as "json" or "text", and its
// level.
func New(level, format string) (*zap.Logger, *Level, error) {
	parsed, err := parse(level)
	if err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	options := zap.NewProductionConfig()
	options.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	options.EncoderConfig.EncodeDuration = zapcore.SecondsDurationEncoder
	if format == "text" {
		options = zap.NewDevelopmentConfig()
		options.Development = false
	}
	options.Level = zap.NewAtomicLevelAt(parsed)
	options.Sampling = nil
	options.DisableStacktrace = true
	log, err := options.Build()
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return log, &Level{atomic: options.Level, configured: parsed}, nil
}

// ErrNoLevel says that a name is none of a level.
var ErrNoLevel = errors.New("want debug, info, warn or error")

func parse(name string) (zapcore.Level, error) {
	for _, level := range levels {
		if level.String() == name {
			return level, nil
		}
	}
	return 0, fmt.Errorf("level %q: %w", name, ErrNoLevel)
}

// String is the level now.
func (l *Level) String() string { return l.atomic.Level().String() }

// Configured is the level that the configuration has.
func (l *Level) Configured() string { return l.configured.String() }

// Set changes the level.
func (l *Level) Set(name string) error {
	level, err := parse(name)
	if err != nil {
		return err
	}
	l.atomic.SetLevel(level)
	return nil
}

// Toggle goes to debug, or from there back to what the configuration has; to info
// where that is debug.
func (l *Level) Toggle() {
	switch {
	case l.atomic.Level() != zapcore.DebugLevel:
		l.atomic.SetLevel(zapcore.DebugLevel)
	case l.configured != zapcore.DebugLevel:
		l.atomic.SetLevel(l.configured)
	default:
		l.atomic.SetLevel(zapcore.InfoLevel)
	}
}
