package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// MediaType is that of a trace in a registry, and the type of the artifact that
// carries one: a single layer, attached to the manifest of the form.
const MediaType = "application/vnd.referee.trace.v1+json"

// FromReferrer is Trace.From of a trace that another node recorded.
const FromReferrer = "referrer"

// findTimeout bounds the search for a trace: a start is over by then.
const findTimeout = 20 * time.Second

// foundShare is how much of a form's bytes a replay of somebody else's trace may
// fetch, in percent: a start that needs more is no faster for being lazy.
const foundShare = 60

// Export returns the trace as it may leave the node: without what is only about
// this one.
func (t *Trace) Export() ([]byte, error) {
	exported := *t
	exported.Recordings, exported.Replayed, exported.From, exported.Began = 0, nil, "", time.Time{}
	exported.Ranges = slices.Clone(t.Ranges)
	for i := range exported.Ranges {
		exported.Ranges[i].At = 0
	}
	if err := exported.check(); err != nil {
		return nil, fmt.Errorf("export trace: %w", err)
	}
	data, err := json.Marshal(&exported)
	if err != nil {
		return nil, fmt.Errorf("export trace: %w", err)
	}
	return append(data, '\n'), nil
}

// accept returns a trace that came with the form, if it is of that form.
func accept(data []byte, spec volume.Spec) (*Trace, error) {
	t, err := Decode(data)
	switch {
	case err != nil:
		return nil, err
	case t.Artifact != spec.Artifact.Digest:
		return nil, fmt.Errorf("trace is of artifact %s, want %s", t.Artifact, spec.Artifact.Digest)
	case len(t.Layers) > len(spec.Blobs()) || !t.fits(spec.Blobs()):
		return nil, fmt.Errorf("trace is of other layers than artifact %s has", t.Artifact)
	case len(t.Ranges) == 0:
		return nil, fmt.Errorf("trace of artifact %s has no ranges", t.Artifact)
	}
	t.Recordings, t.Replayed, t.From, t.Began = 0, nil, FromReferrer, time.Time{}
	for i := range t.Ranges {
		t.Ranges[i].At = 0
	}
	return t, nil
}

// find looks for a trace that came with the form, keeps it and returns its ranges.
func (c *Companion) find(ctx context.Context, log *zap.Logger, spec volume.Spec, blobs []volume.Blob) []Range {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	contents, err := c.opts.Find(ctx, spec, blobs)
	if err != nil && ctx.Err() == nil {
		log.Debug("looking for a start-up trace", zap.Error(err))
	}
	for _, data := range contents {
		found, err := accept(data, spec)
		if err != nil {
			log.Debug("start-up trace left alone", zap.Error(err))
			continue
		}
		err = c.store.Update(spec.Repository, spec.Artifact.Digest, func(t *Trace) {
			if !t.fits(spec.Blobs()) || len(t.Ranges) == 0 {
				*t = *found
			}
		})
		if err != nil {
			log.Warn("start-up trace not kept", zap.Error(err))
		}
		log.Debug("start-up trace found", zap.Int("ranges", len(found.Ranges)), zap.Int64("bytes", found.Bytes()))
		return found.Ranges
	}
	return nil
}

// most is how many bytes a replay of t may fetch.
func (c *Companion) most(from string, spec volume.Spec) int64 {
	if from != FromReferrer {
		return c.opts.MaxReplayed
	}
	var size int64
	for _, blob := range spec.Blobs() {
		size += blob.Size
	}
	return min(c.opts.MaxReplayed, size/100*foundShare)
}

// hinted are the ranges that the form itself asks for first.
func hinted(hints []lazyblock.Hint, spec volume.Spec) []Range {
	var ranges []Range
	blobs := spec.Blobs()
	for _, h := range hints {
		if h.Blob < 0 || h.Blob >= len(blobs) || h.Off < 0 || h.Length <= 0 || h.Off > blobs[h.Blob].Size-h.Length {
			continue
		}
		ranges = append(ranges, Range{Layer: h.Blob, Offset: h.Off, Length: h.Length})
	}
	return ranges
}

// unknown returns those of ranges that none of known covers.
func unknown(ranges, known []Range) []Range {
	return slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool {
		return slices.ContainsFunc(known, func(k Range) bool {
			return k.Layer == r.Layer && k.Offset <= r.Offset && r.Offset+r.Length <= k.Offset+k.Length
		})
	})
}
