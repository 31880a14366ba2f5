package main

import (
	"context"
	"path/filepath"

	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/lazyblock/volume"
)

func tracesDir(config *configs.Config) string { return filepath.Join(config.Root, "traces") }

// openTraces records and replays starts as the configuration says.
func (d *daemonParts) openTraces(config *configs.Config, log *zap.Logger) (*trace.Companion, error) {
	store, err := trace.OpenStore(tracesDir(config))
	if err != nil {
		return nil, err
	}
	options := trace.Options{Record: config.Trace.Record, Replay: config.Trace.Replay, Log: log}
	if config.Trace.Find {
		options.Find = d.findTraces
	}
	return trace.New(store, options), nil
}

// maxFoundTraces is how many traces of a form are looked at.
const maxFoundTraces = 3

// findTraces fetches what is attached to a form, the way its blobs are fetched.
func (d *daemonParts) findTraces(ctx context.Context, spec volume.Spec, blobs []volume.Blob) ([][]byte, error) {
	if len(blobs) == 0 {
		return nil, nil
	}
	first, ok := blobs[0].(*cachedBlob)
	if !ok {
		return nil, nil // read without the cache: nowhere to fetch to
	}
	return d.negotiator.Attached(ctx, first.repository(spec.Repository), spec.Artifact.Digest, trace.MediaType, maxFoundTraces, trace.MaxBytes)
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
