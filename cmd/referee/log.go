package main

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
)

// newLogger writes to standard error, as JSON or as text.
func newLogger(config configs.Log) (*zap.Logger, error) {
	level, err := zap.ParseAtomicLevel(config.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	options := zap.NewProductionConfig()
	if config.Format == "text" {
		options = zap.NewDevelopmentConfig()
		options.Development = false
		options.DisableStacktrace = true
	}
	options.Level = level
	options.Sampling = nil
	options.DisableStacktrace = true
	return options.Build()
}
