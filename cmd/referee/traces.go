package main

import (
	"path/filepath"

	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/trace"
)

func tracesDir(config *configs.Config) string { return filepath.Join(config.Root, "traces") }

// openTraces records and replays starts as the configuration says.
func openTraces(config *configs.Config, log *zap.Logger) (*trace.Companion, error) {
	store, err := trace.OpenStore(tracesDir(config))
	if err != nil {
		return nil, err
	}
	return trace.New(store, trace.Options{Record: config.Trace.Record, Replay: config.Trace.Replay, Log: log}), nil
}

// traceOf returns the trace of the form that a pull chose, or nil.
func traceOf(config *configs.Config, entry *fallback.Entry) *trace.Trace {
	named, err := reference.ParseDockerRef(entry.Reference)
	if err != nil || entry.Artifact == "" {
		return nil
	}
	t, err := trace.ReadStore(tracesDir(config)).Get(named.Name(), entry.Artifact)
	if err != nil {
		return nil // none, or of no use to the daemon either
	}
	return t
}
