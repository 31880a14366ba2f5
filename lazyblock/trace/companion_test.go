package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/lazyblock/volume"
)

const (
	kib = int64(1 << 10)
	mib = int64(1 << 20)
)

// origin is a registry's blob: it counts requests and may be slow or down.
type origin struct {
	data []byte

	mu       sync.Mutex
	requests int
	err      error
	gate     chan struct{} // nil: open
}

func newOrigin(seed uint64, size int64) *origin {
	o := &origin{data: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(o.data)
	return o
}

func (o *origin) Size() int64 { return int64(len(o.data)) }

func (o *origin) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	o.mu.Lock()
	o.requests++
	err, gate := o.err, o.gate
	o.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err != nil {
		return 0, err
	}
	n := copy(p, o.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *origin) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() { o.requests = 0 }()
	return o.requests
}

// watched is a cached blob as the daemon makes it.
type watched struct {
	*cache.Blob
	trace.Watch
}

func (w *watched) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	w.Saw(off, int64(len(p)))
	return w.Blob.ReadRange(ctx, p, off)
}

// bed is a node with one form of two layers.
type bed struct {
	store   *trace.Store
	dir     string
	origins []*origin
	spec    volume.Spec
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{dir: t.TempDir(), origins: []*origin{newOrigin(1, 16*mib), newOrigin(2, 8*mib+123)}}
	b.spec = volume.Spec{
		Format: "plain", Repository: "registry.test/app", Reference: "registry.test/app:1",
		Artifact: ocispec.Descriptor{Digest: digest.FromString("form")},
	}
	for _, o := range b.origins {
		b.spec.Layers = append(b.spec.Layers, ocispec.Descriptor{Digest: digest.FromBytes(o.data), Size: o.Size()})
	}
	store, err := trace.OpenStore(filepath.Join(b.dir, "traces"))
	if err != nil {
		t.Fatal(err)
	}
	b.store = store
	return b
}

// open mounts the form with an empty cache.
func (b *bed) open(t *testing.T) []volume.Blob {
	t.Helper()
	store, err := cache.Open(t.TempDir(), cache.Options{MaxBytes: 1 << 30, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	blobs := make([]volume.Blob, 0, len(b.origins))
	for i, o := range b.origins {
		cached, err := store.Blob(b.spec.Layers[i], o)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, &watched{Blob: cached})
	}
	t.Cleanup(func() {
		for _, blob := range blobs {
			if err := blob.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return blobs
}

func (b *bed) companion(t *testing.T) *trace.Companion {
	t.Helper()
	return trace.New(b.store, trace.Options{Record: true, Replay: true, Quiet: 2 * time.Second, Log: zaptest.NewLogger(t)})
}

func (b *bed) read(t *testing.T, blobs []volume.Blob, layer int, off, n int64) {
	t.Helper()
	p := make([]byte, n)
	if _, err := blobs[layer].ReadRange(t.Context(), p, off); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if want := b.origins[layer].data[off : off+n]; !bytes.Equal(p, want) {
		t.Fatalf("wrong bytes at %d of layer %d", off, layer)
	}
}

// start reads what the program reads when it starts: far apart, in no order.
func (b *bed) start(t *testing.T, blobs []volume.Blob) {
	t.Helper()
	for i := range int64(12) {
		b.read(t, blobs, 0, (i*7%12)*mib+300*kib, 40*kib)
		b.read(t, blobs, 1, (11-i)*512*kib+17, 9*kib)
	}
}

func (b *bed) trace(t *testing.T) *trace.Trace {
	t.Helper()
	got, err := b.store.Get(b.spec.Repository, b.spec.Artifact.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// recorded runs a first start until its trace is kept.
func (b *bed) recorded(t *testing.T) {
	t.Helper()
	blobs := b.open(t)
	done := b.companion(t).Opened(volume.Mounted{ID: "first", Spec: b.spec, Blobs: blobs})
	b.start(t, blobs)
	eventually.True(t, "the start is recorded", func() bool {
		_, err := b.store.Get(b.spec.Repository, b.spec.Artifact.Digest)
		return err == nil
	})
	done()
	for _, o := range b.origins {
		o.asked()
	}
}

func TestSecondStartAsksForNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.recorded(t)
	if got := b.trace(t); got.Recordings != 1 || len(got.Ranges) != 24 {
		t.Errorf("%d recordings of %d ranges, want 1 of 24", got.Recordings, len(got.Ranges))
	}

	blobs := b.open(t)
	done := b.companion(t).Opened(volume.Mounted{ID: "second", Spec: b.spec, Blobs: blobs})
	defer done()
	eventually.True(t, "the trace is replayed", func() bool { return b.trace(t).Replayed != nil })
	replayed := b.trace(t).Replayed
	if replayed.Error != "" || replayed.Requests == 0 || replayed.Requests > 24 {
		t.Errorf("replayed %+v", replayed)
	}
	for _, o := range b.origins {
		if o.asked() == 0 {
			t.Error("nothing was fetched by the replay")
		}
	}
	b.start(t, blobs)
	for i, o := range b.origins {
		if n := o.asked(); n != 0 {
			t.Errorf("layer %d: %d requests by the start after the replay", i, n)
		}
	}
}

func TestLaterStartsAdd(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.recorded(t)
	first := b.trace(t)
	blobs := b.open(t)
	done := b.companion(t).Opened(volume.Mounted{ID: "second", Spec: b.spec, Blobs: blobs})
	b.start(t, blobs)
	b.read(t, blobs, 0, 14*mib, mib)
	done() // what was read so far counts
	second := b.trace(t)
	if second.Recordings != 2 || second.Bytes() != first.Bytes()+mib {
		t.Errorf("%d recordings, %d bytes, want 2 and %d", second.Recordings, second.Bytes(), first.Bytes()+mib)
	}
}

func TestOtherRegistryKnowsNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.recorded(t)
	if _, err := b.store.Get("elsewhere.test/app", b.spec.Artifact.Digest); !errors.Is(err, trace.ErrNone) {
		t.Errorf("got %v, want %v", err, trace.ErrNone)
	}
}

func TestReplayEndsWithItsVolume(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.recorded(t)
	gate := make(chan struct{})
	for _, o := range b.origins {
		o.gate = gate
	}
	blobs := b.open(t)
	done := b.companion(t).Opened(volume.Mounted{ID: "second", Spec: b.spec, Blobs: blobs})
	eventually.True(t, "the replay has begun", func() bool { return b.origins[0].asked()+b.origins[1].asked() > 0 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done()
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("done waits for a registry that does not answer")
	}
	close(gate)
	<-ended
}

func TestReplayThatFailsIsTold(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.recorded(t)
	for _, o := range b.origins {
		o.err = errors.New("registry is down")
	}
	blobs := b.open(t)
	defer b.companion(t).Opened(volume.Mounted{ID: "second", Spec: b.spec, Blobs: blobs})()
	eventually.True(t, "the failure is noted", func() bool {
		r := b.trace(t).Replayed
		return r != nil && r.Error != ""
	})
}

func TestTracesThatCannotBeUsedAreReplaced(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*testing.T, *bed){
		"torn file": func(t *testing.T, b *bed) {
			files, err := filepath.Glob(filepath.Join(b.dir, "traces", "*.json"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v: %v", files, err)
			}
			if err := os.Truncate(files[0], 100); err != nil {
				t.Fatal(err)
			}
		},
		"other layers": func(_ *testing.T, b *bed) {
			b.spec.Layers[0].Size--
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.recorded(t)
			harm(t, b)
			blobs := make([]volume.Blob, 0, len(b.origins))
			for _, o := range b.origins {
				blobs = append(blobs, &plain{RangeReader: o})
			}
			done := b.companion(t).Opened(volume.Mounted{ID: "second", Spec: b.spec, Blobs: blobs})
			b.start(t, blobs)
			done()
			got := b.trace(t)
			if got.Recordings != 1 || got.Layers[0].Size != b.spec.Layers[0].Size || len(got.Ranges) != 24 {
				t.Errorf("%d recordings of %d ranges of %v", got.Recordings, len(got.Ranges), got.Layers)
			}
		})
	}
}

// plain is a blob without a cache.
type plain struct {
	lazyblock.RangeReader
	trace.Watch
}

func (p *plain) ReadRange(ctx context.Context, b []byte, off int64) (int, error) {
	p.Saw(off, int64(len(b)))
	return p.RangeReader.ReadRange(ctx, b, off)
}

func (*plain) Close() error { return nil }

// TestFoundTraces has other nodes' traces offered where nothing is known of a
// form: only one of that very form is replayed and kept, within bounds.
func TestFoundTraces(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	blobs := b.open(t)
	b.start(t, blobs)
	b.recorded(t)
	mine := b.trace(t)
	export := func(change func(*trace.Trace)) []byte {
		other := *mine
		other.Layers = slices.Clone(mine.Layers)
		change(&other)
		data, err := other.Export()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	another := digest.FromString("another")
	useless := [][]byte{
		[]byte("{"),
		export(func(other *trace.Trace) { other.Artifact = another }),
		export(func(other *trace.Trace) { other.Layers[0].Digest = another }),
		export(func(other *trace.Trace) { other.Layers = append(other.Layers, trace.Layer{Digest: another, Size: 1}) }),
		export(func(other *trace.Trace) { other.Ranges = nil }),
	}
	for name, tc := range map[string]struct {
		offered [][]byte
		problem error
		want    bool
	}{
		"none":                        {nil, nil, false},
		"none can be had":             {nil, errors.New("registry is away"), false},
		"useless ones":                {useless, nil, false},
		"useless ones, then a right":  {append(slices.Clone(useless), export(func(*trace.Trace) {})), errors.New("one could not be had"), true},
		"one that says it is ours":    {[][]byte{mustMarshal(t, mine)}, nil, true},
		"one of the form's every bit": {[][]byte{export(func(other *trace.Trace) { other.Ranges = everything(other.Layers) })}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			blobs := b.open(t)
			asked := make(chan struct{})
			c := trace.New(b.store, trace.Options{Replay: true, Log: zaptest.NewLogger(t), Find: func(context.Context, volume.Spec, []volume.Blob) ([][]byte, error) {
				defer close(asked)
				return tc.offered, tc.problem
			}})
			done := c.Opened(volume.Mounted{ID: "id", Spec: b.spec, Blobs: blobs})
			<-asked
			if !tc.want {
				done()
				if _, err := b.store.Get(b.spec.Repository, b.spec.Artifact.Digest); !errors.Is(err, trace.ErrNone) {
					t.Errorf("kept: %v", err)
				}
				return
			}
			var got *trace.Trace
			eventually.True(t, "the trace is replayed", func() bool {
				var err error
				got, err = b.store.Get(b.spec.Repository, b.spec.Artifact.Digest)
				return err == nil && got.Replayed != nil
			})
			done()
			if got.From != trace.FromReferrer || got.Recordings != 0 || got.Replayed.Error != "" || got.Replayed.Bytes == 0 {
				t.Errorf("kept: from %q, %d recordings, replayed %+v", got.From, got.Recordings, got.Replayed)
			}
			var size int64
			for _, layer := range b.spec.Layers {
				size += layer.Size
			}
			if got.Replayed.Bytes > size*6/10 {
				t.Errorf("%d of %d bytes were fetched on somebody's word", got.Replayed.Bytes, size)
			}
		})
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// everything is all of the layers, in pieces.
func everything(layers []trace.Layer) (ranges []trace.Range) {
	for i, layer := range layers {
		for off := int64(0); off < layer.Size; off += 256 * kib {
			ranges = append(ranges, trace.Range{Layer: i, Offset: off, Length: min(256*kib, layer.Size-off)})
		}
	}
	return ranges
}

// TestHintsAreFetchedWhereNothingIsKnown has the form's own advice followed for the
// first start: ranges of blobs, and files of what is mounted.
func TestHintsAreFetchedWhereNothingIsKnown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	root := t.TempDir()
	for _, name := range []string{"etc/passwd", "lib/a", "lib/deep/b"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blobs := b.open(t)
	done := b.companion(t).Opened(volume.Mounted{
		ID: "first", Spec: b.spec, Blobs: blobs, Root: root, Paths: []string{"lib", "etc/passwd", "absent", "../outside"},
		Hints: []lazyblock.Hint{{Blob: 1, Off: mib, Length: mib}, {Blob: 7, Off: 0, Length: 1}, {Blob: 0, Off: -1, Length: 1}, {Blob: 0, Off: 1 << 40, Length: 1}},
	})
	defer done()
	cached, ok := blobs[1].(interface{ Cached() int64 })
	if !ok {
		t.Fatalf("the bed's blobs are %T", blobs[1])
	}
	eventually.True(t, "the hinted range is here", func() bool { return cached.Cached() >= mib })
	if b.origins[0].asked() != 0 {
		t.Error("something was fetched of the other blob")
	}
}
