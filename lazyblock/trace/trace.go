package trace

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Version is the only value of the field "version" this package understands.
const Version = 1

// Bounds of a trace.
const (
	MaxBytes  = 2 << 20 // of its JSON
	maxRanges = 16384
	maxLayers = 512
	maxAt     = 86400 // seconds; recordings end long before
)

// Trace is what start-ups read, in the order of first use.
type Trace struct {
	Version  int           `json:"version"`
	Artifact digest.Digest `json:"artifact"` // the manifest of the form it was recorded of
	Layers   []Layer       `json:"layers"`   // of the form, bottom first; maybe not all
	Ranges   []Range       `json:"ranges"`
	// Recordings is how many starts have added to it.
	Recordings int `json:"recordings,omitempty"`
	// Began is when this node began to record the first of them.
	Began time.Time `json:"began,omitzero"`
	// From is FromReferrer where another node recorded what it began with.
	From string `json:"from,omitempty"`
	// Replayed tells of the last replay on this node.
	Replayed *Replay `json:"replayed,omitempty"`
}

// Layer is a blob that ranges are of.
type Layer struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // in bytes
}

// Range is a part of a layer's blob, in bytes as the registry serves it.
type Range struct {
	Layer  int   `json:"layer"` // index into Layers
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	// At is when it was read first, in seconds since the recording began; 0 where
	// another node recorded it.
	At float64 `json:"at,omitempty"`
}

// Replay is how the replay of a trace went.
type Replay struct {
	Time     time.Time `json:"time"` // when it began
	Requests int       `json:"requests"`
	Bytes    int64     `json:"bytes"` // asked for; some may have been here
	Seconds  float64   `json:"seconds"`
	Error    string    `json:"error,omitempty"` // what ended it early
}

// Decode reads a trace and checks that it says nothing impossible.
func Decode(data []byte) (*Trace, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("decode trace: %d bytes, want at most %d", len(data), MaxBytes)
	}
	t := &Trace{}
	if err := json.Unmarshal(data, t); err != nil {
		return nil, fmt.Errorf("decode trace: %w", err)
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("decode trace: %w", err)
	}
	return t, nil
}

func (t *Trace) check() error {
	switch {
	case t.Version != Version:
		return fmt.Errorf("version %d, want %d", t.Version, Version)
	case len(t.Layers) > maxLayers:
		return fmt.Errorf("%d layers, want at most %d", len(t.Layers), maxLayers)
	case len(t.Ranges) > maxRanges:
		return fmt.Errorf("%d ranges, want at most %d", len(t.Ranges), maxRanges)
	}
	if err := t.Artifact.Validate(); err != nil {
		return fmt.Errorf("artifact %q: %w", t.Artifact, err)
	}
	for i, layer := range t.Layers {
		if err := layer.Digest.Validate(); err != nil {
			return fmt.Errorf("layer %d: digest %q: %w", i, layer.Digest, err)
		}
		if layer.Size < 0 || layer.Size > math.MaxInt64/2 {
			return fmt.Errorf("layer %d: size %d", i, layer.Size)
		}
	}
	for i, r := range t.Ranges {
		if r.Layer < 0 || r.Layer >= len(t.Layers) {
			return fmt.Errorf("range %d: layer %d of %d", i, r.Layer, len(t.Layers))
		}
		if math.IsNaN(r.At) || r.At < 0 || r.At > maxAt {
			return fmt.Errorf("range %d: read after %g seconds", i, r.At)
		}
		if size := t.Layers[r.Layer].Size; r.Offset < 0 || r.Length <= 0 || r.Offset > size || r.Length > size-r.Offset {
			return fmt.Errorf("range %d: %d bytes at %d of a layer of %d", i, r.Length, r.Offset, size)
		}
	}
	return nil
}

// Bytes is the length of all ranges.
func (t *Trace) Bytes() int64 { return sum(t.Ranges) }

func sum(ranges []Range) int64 {
	var bytes int64
	for _, r := range ranges {
		bytes += r.Length
	}
	return bytes
}

// fits reports whether the layers that t and a volume both have are the same: the
// volume may be of fewer layers, where only a prefix of the image is mounted.
func (t *Trace) fits(layers []ocispec.Descriptor) bool {
	for i := range min(len(t.Layers), len(layers)) {
		if t.Layers[i] != (Layer{layers[i].Digest, layers[i].Size}) {
			return false
		}
	}
	return true
}
