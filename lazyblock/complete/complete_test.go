package complete_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/volume"
)

const (
	mib   = 1 << 20
	rate  = mib // a second
	delay = 10 * time.Second
)

// origin is a registry's blob.
type origin struct {
	content []byte
	gate    chan struct{} // nil: answers at once
	asked   atomic.Int64
}

func newOrigin(seed byte, n int64) *origin {
	o := &origin{content: make([]byte, n)}
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(o.content) // never fails
	return o
}

func (o *origin) Size() int64 { return int64(len(o.content)) }

func (o *origin) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	o.asked.Add(1)
	if o.gate != nil {
		select {
		case <-o.gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if n := copy(p, o.content[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (o *origin) desc() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(o.content), Size: o.Size()}
}

// bench is a cache with blobs of one volume, and what completes it.
type bench struct {
	*complete.Companion

	store *cache.Store
	root  string
	spec  volume.Spec
}

// newBench opens everything below root, within a bubble.
func newBench(t *testing.T, root string, opts complete.Options) *bench {
	t.Helper()
	store, err := cache.Open(root+"/cache", cache.Options{KeepFree: -1, MaxReadAhead: -1, Guess: -1})
	if err != nil {
		t.Fatal(err)
	}
	opts.Root, opts.Delay, opts.Log = root, delay, zaptest.NewLogger(t)
	companion, err := complete.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{companion, store, root, volume.Spec{Repository: "registry.test/app", Reference: "registry.test/app:1", Chain: digest.FromString("chain")}}
}

// close ends everything: a bubble waits for its goroutines.
func (b *bench) close(t *testing.T) {
	t.Helper()
	b.Close()
	if err := b.store.Close(); err != nil {
		t.Error(err)
	}
}

// blob opens origin under the digest of truth.
func (b *bench) blob(t *testing.T, truth, origin *origin) *cache.Blob {
	t.Helper()
	cached, err := b.store.Blob(truth.desc(), origin)
	if err != nil {
		t.Fatal(err)
	}
	return cached
}

// mount tells of a volume of one blob.
func (b *bench) mount(truth *origin, blob *cache.Blob) (spec volume.Spec, done func()) {
	spec = b.spec
	spec.Layers = []ocispec.Descriptor{truth.desc()}
	return spec, b.Opened(volume.Mounted{ID: spec.ID(), Spec: spec, Blobs: []volume.Blob{blob}})
}

// until lets the bubble's time pass until ok, and returns how long that took.
func until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > time.Hour {
			t.Fatalf("waited in vain: %s", what)
		}
		pass(100 * time.Millisecond)
	}
	return time.Since(begin)
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
}

// TestCompletes fetches what nobody read, neither at once nor faster than allowed,
// seals it, and asks for nothing after a restart.
func TestCompletes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root, truth := t.TempDir(), newOrigin(1, 5*mib+17)
		b := newBench(t, root, complete.Options{Rate: rate})
		blob := b.blob(t, truth, truth)
		spec, done := b.mount(truth, blob)
		pass(delay - time.Second)
		if asked := truth.asked.Load(); asked != 0 {
			t.Errorf("%d requests before the delay is over", asked)
		}
		took := until(t, "the blob is sealed", blob.Sealed)
		if least := time.Duration(truth.Size()) * time.Second / rate; took < least || took > 2*least+2*time.Second {
			t.Errorf("%d bytes took %s at %d bytes a second", truth.Size(), took, rate)
		}
		state, err := complete.ReadState(root, spec.ID())
		if err != nil || state == nil || !state.Whole() || state.Cached != truth.Size() || state.Size != truth.Size() || state.Waiting != "" {
			t.Errorf("state %+v, %v", state, err)
		}
		done()
		b.close(t)

		asked := truth.asked.Load()
		b = newBench(t, root, complete.Options{Rate: rate})
		blob = b.blob(t, truth, truth)
		_, done = b.mount(truth, blob)
		if !blob.Sealed() {
			t.Error("no longer sealed after a restart")
		}
		pass(time.Minute)
		if again := truth.asked.Load(); again != asked {
			t.Errorf("%d requests for what is sealed", again-asked)
		}
		done()
		b.close(t)
	})
}

// TestYields holds completion back while readers wait for a registry: its own
// volume's for the delay, another's between two pieces.
func TestYields(t *testing.T) {
	t.Parallel()
	t.Run("to readers of the volume", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			truth := newOrigin(2, 3*mib)
			b := newBench(t, t.TempDir(), complete.Options{Rate: rate})
			blob := b.blob(t, truth, truth)
			_, done := b.mount(truth, blob)
			pass(delay - time.Second)
			if _, err := blob.ReadRange(t.Context(), make([]byte, 1), 2*mib); err != nil {
				t.Fatal(err)
			}
			asked := truth.asked.Load()
			pass(delay - time.Second)
			if more := truth.asked.Load() - asked; more != 0 {
				t.Errorf("%d requests while the start goes on", more)
			}
			until(t, "the blob is sealed", blob.Sealed)
			done()
			b.close(t)
		})
	})
	t.Run("to readers of others", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			truth, other := newOrigin(3, 2*mib), newOrigin(4, mib)
			other.gate = make(chan struct{})
			b := newBench(t, t.TempDir(), complete.Options{Rate: rate})
			blob, waited := b.blob(t, truth, truth), b.blob(t, other, other)
			read := make(chan error, 1)
			go func() { // ends when the gate opens; awaited below
				_, err := waited.ReadRange(context.Background(), make([]byte, 1), 0)
				read <- err
			}()
			_, done := b.mount(truth, blob)
			pass(delay + 20*time.Second)
			if asked := truth.asked.Load(); asked != 0 {
				t.Errorf("%d requests while somebody waits", asked)
			}
			close(other.gate)
			if err := <-read; err != nil {
				t.Error(err)
			}
			until(t, "the blob is sealed", blob.Sealed)
			done()
			b.close(t)
		})
	})
}

// TestStops fetches nothing without a rate, without room, or once the volume is gone.
func TestStops(t *testing.T) {
	t.Parallel()
	t.Run("no rate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			truth := newOrigin(5, mib)
			b := newBench(t, t.TempDir(), complete.Options{})
			_, done := b.mount(truth, b.blob(t, truth, truth))
			pass(time.Hour)
			if asked := truth.asked.Load(); asked != 0 {
				t.Errorf("%d requests", asked)
			}
			done()
			b.close(t)
		})
	})
	t.Run("no room", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			truth := newOrigin(6, mib)
			var room atomic.Bool
			b := newBench(t, t.TempDir(), complete.Options{Rate: rate, Spare: func(int64) error {
				if room.Load() {
					return nil
				}
				return errors.New("no room at all")
			}})
			blob := b.blob(t, truth, truth)
			spec, done := b.mount(truth, blob)
			pass(5 * time.Minute)
			if asked := truth.asked.Load(); asked != 0 {
				t.Errorf("%d requests", asked)
			}
			if state, err := complete.ReadState(b.root, spec.ID()); err != nil || state == nil || state.Whole() || state.Waiting == "" {
				t.Errorf("state %+v, %v", state, err)
			}
			room.Store(true)
			until(t, "the blob is sealed", blob.Sealed)
			done()
			b.close(t)
		})
	})
	t.Run("volume gone", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			truth := newOrigin(7, 3*mib)
			truth.gate = make(chan struct{}) // never opens
			b := newBench(t, t.TempDir(), complete.Options{Rate: rate})
			_, done := b.mount(truth, b.blob(t, truth, truth))
			until(t, "something is fetched", func() bool { return truth.asked.Load() > 0 })
			begin := time.Now()
			done()
			if took := time.Since(begin); took > time.Second {
				t.Errorf("the volume was held for %s", took)
			}
			asked := truth.asked.Load()
			pass(time.Hour)
			if more := truth.asked.Load() - asked; more != 0 {
				t.Errorf("%d requests for a volume that is gone", more)
			}
			b.close(t)
		})
	})
}

// TestQuarantine completes a blob of which the registry serves another content
// than its digest says.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root, truth, wrong := t.TempDir(), newOrigin(8, 2*mib), newOrigin(8, 2*mib)
		wrong.content[mib] ^= 1
		var tries atomic.Int64
		replace := func(_ context.Context, q complete.Quarantine) error {
			if tries.Add(1) < 3 {
				return fmt.Errorf("registry %s is away", q.Repository)
			}
			return nil
		}
		b := newBench(t, root, complete.Options{Rate: rate, Replace: replace})
		blob := b.blob(t, truth, wrong)
		spec, done := b.mount(truth, blob)
		if err := b.Refuse(spec); err != nil {
			t.Errorf("refused before anything is known: %v", err)
		}
		until(t, "the volume is in quarantine", func() bool { return b.Quarantined(spec.ID()) })
		if blob.Sealed() || blob.Cached() != 0 {
			t.Errorf("the wrong blob is sealed %t, %d bytes of it are kept", blob.Sealed(), blob.Cached())
		}
		until(t, "the form is replaced", func() bool {
			q, err := complete.ReadQuarantine(root, spec.ID())
			return err == nil && q != nil && q.Replaced != nil
		})
		if n := tries.Load(); n != 3 {
			t.Errorf("%d tries to replace it, want 3", n)
		}
		asked := wrong.asked.Load()
		pass(time.Hour)
		if more := wrong.asked.Load() - asked; more != 0 || tries.Load() != 3 {
			t.Errorf("%d requests for what is in quarantine, %d tries to replace it", more, tries.Load())
		}
		done()
		b.close(t)

		b = newBench(t, root, complete.Options{Rate: rate})
		if err := b.Refuse(spec); reason.Of(err) != reason.Quarantined || !b.Quarantined(spec.ID()) {
			t.Errorf("after a restart: %v", err)
		}
		elsewhere := spec
		elsewhere.Repository = "another.test/app"
		if err := b.Refuse(elsewhere); err != nil {
			t.Errorf("another registry is refused for it: %v", err)
		}
		b.close(t)
	})
}

// TestQuarantineIsFinished begins where a crash left a record and a whole, wrong
// blob: it is forgotten, and another volume that shares it goes into quarantine.
func TestQuarantineIsFinished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		truth, wrong := newOrigin(9, 2*mib), newOrigin(9, 2*mib)
		wrong.content[mib] ^= 1
		b := newBench(t, t.TempDir(), complete.Options{Rate: rate})
		spec, done := b.mount(truth, b.blob(t, truth, wrong))
		until(t, "the volume is in quarantine", func() bool { return b.Quarantined(spec.ID()) })
		done()
		b.close(t)

		b = newBench(t, b.root, complete.Options{Rate: rate})
		blob := b.blob(t, truth, wrong)
		if err := blob.Prefetch(t.Context(), 0, blob.Size()); err != nil { // as if it had never been forgotten
			t.Fatal(err)
		}
		_, done = b.mount(truth, blob)
		until(t, "the wrong blob is forgotten", func() bool { return blob.Cached() == 0 })
		sharing := b.spec
		sharing.Chain = digest.FromString("another chain")
		sharing.Layers = []ocispec.Descriptor{truth.desc()}
		alsoDone := b.Opened(volume.Mounted{ID: sharing.ID(), Spec: sharing, Blobs: []volume.Blob{blob}})
		until(t, "the other volume is in quarantine", func() bool { return b.Quarantined(sharing.ID()) })
		alsoDone()
		done()
		b.close(t)
	})
}
