package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/volume"
)

func specOf(layers ...string) volume.Spec {
	spec := volume.Spec{Format: "plain", Repository: "registry.test/app", Reference: "registry.test/app:1"}
	for _, layer := range layers {
		spec.Layers = append(spec.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(layer), Size: 4096,
		})
	}
	return spec
}

func mount(t *testing.T, m *volume.Manager, spec volume.Spec) (release func()) {
	t.Helper()
	release, _, err := m.Mount(t.Context(), spec, registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func sweep(t *testing.T, m *volume.Manager, keep ...volume.Spec) {
	t.Helper()
	idle, err := m.Idle()
	if err != nil {
		t.Fatal(err)
	}
	kept := make(map[string]bool)
	for _, spec := range keep {
		kept[spec.ID()] = true
	}
	if err := m.Sweep(t.Context(), idle, kept); err != nil {
		t.Errorf("sweep: %v", err)
	}
}

func TestMountsOfOneVolumeAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a", "b")
	const pulls = 8
	var wg sync.WaitGroup
	reports := make([]volume.Report, pulls)
	for i := range pulls {
		wg.Go(func() {
			release, report, err := m.Mount(t.Context(), spec, registry.Credentials{})
			if err != nil {
				t.Errorf("mount %d: %v", i, err)
				return
			}
			release()
			release() // counts once
			reports[i] = report
		})
	}
	wg.Wait()
	if n := w.driver.attached(); n != 1 {
		t.Errorf("attached %d times, want once", n)
	}
	fetching := 0
	for _, report := range reports {
		if report.Fetched != 0 {
			fetching++
		}
	}
	if fetching != 1 {
		t.Errorf("%d pulls report bytes, want the one that mounted", fetching)
	}
	w.expect(t, m, spec)
	sweep(t, m)
	w.expect(t, m)
}

func TestMountThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	spec := specOf("a", "b", "c")
	for name, tc := range map[string]struct {
		breakIt func(w *world)
		mend    func(w *world)
		want    reason.Code
	}{
		"a layer cannot be opened": {
			func(w *world) { w.blobs.broken[spec.Layers[1].Digest] = errBroken },
			func(w *world) { clear(w.blobs.broken) }, reason.Internal,
		},
		"the format is corrupt": {
			func(w *world) { w.open = func(string) error { return reason.Wrap(reason.FormatCorrupt, errBroken) } },
			func(w *world) { w.open = nil }, reason.FormatCorrupt,
		},
		"the kernel refuses": {
			func(w *world) {
				w.driver.attach = func(context.Context, lazyblock.Volume, string) error {
					return reason.Wrap(reason.AttachFailed, errBroken)
				}
			},
			func(w *world) { w.driver.attach = nil }, reason.AttachFailed,
		},
		"the kernel meets a corrupt block": {
			func(w *world) {
				w.device = func(d *device) {
					d.read = func() error { return reason.Wrap(reason.FormatCorrupt, errBroken) }
				}
				w.driver.attach = func(ctx context.Context, v lazyblock.Volume, _ string) error {
					if _, err := v.Primary.ReadRange(ctx, make([]byte, 512), 0); err != nil {
						return reason.Wrap(reason.AttachFailed, errors.New("input/output error"))
					}
					return nil
				}
			},
			func(w *world) { w.device, w.driver.attach = nil, nil }, reason.FormatCorrupt,
		},
		"what was mounted cannot be read": {
			func(w *world) { w.driver.mounted = os.RemoveAll },
			func(w *world) { w.driver.mounted = nil }, reason.ProbeFailed,
		},
		"the record cannot be written": {
			func(w *world) { _ = os.MkdirAll(filepath.Join(w.record(spec), "in the way"), 0o700) },
			func(w *world) { _ = os.RemoveAll(w.record(spec)) }, reason.Internal,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.manager(t)
			tc.breakIt(w)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			release, _, err := m.Mount(ctx, spec, registry.Credentials{})
			if err == nil || release != nil {
				t.Fatalf("Mount = %p, %v; want an error and nothing to release", release, err)
			}
			if got := reason.Of(err); got != tc.want {
				t.Errorf("reason %q of %v, want %q", got, err, tc.want)
			}
			tc.mend(w)
			w.expect(t, m)

			mount(t, m, spec)() // nothing is in the way of the next pull
			w.expect(t, m, spec)
		})
	}
}

func TestUnknownFormatIsNotAttachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a")
	spec.Format = "unheard-of"
	if m.CanOpen(spec.Format) || !m.CanOpen("plain") {
		t.Error("CanOpen is wrong")
	}
	if _, _, err := m.Mount(t.Context(), spec, registry.Credentials{}); reason.Of(err) != reason.NotAttachable {
		t.Errorf("got %v, want not-attachable", err)
	}
	w.expect(t, m)
}

func TestSweepTakesOnlyWhatNobodyWants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	pinned, grafted, late, unwanted := specOf("base", "pinned"), specOf("base", "grafted"), specOf("late"), specOf("base", "unwanted")
	release := mount(t, m, pinned)
	mount(t, m, grafted)()
	mount(t, m, late)()
	mount(t, m, unwanted)()

	idle, err := m.Idle()
	if err != nil {
		t.Fatal(err)
	}
	mount(t, m, late)() // a pull that came and went since the look: its graft is not in keep
	if err := m.Sweep(t.Context(), idle, map[string]bool{grafted.ID(): true}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, m, pinned, grafted, late)

	sweep(t, m, grafted)
	w.expect(t, m, pinned, grafted)
	release()
	sweep(t, m, grafted)
	w.expect(t, m, grafted)
	sweep(t, m)
	w.expect(t, m)
}

func TestSharedLayersGoWithTheLastVolume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	specs := []volume.Spec{specOf("base", "a"), specOf("base", "b"), specOf("base", "c")}
	for _, spec := range specs {
		mount(t, m, spec)()
	}
	sweep(t, m, specs[1], specs[2])
	w.expect(t, m, specs[1], specs[2])
	sweep(t, m) // both at once: neither is in the other's way
	w.expect(t, m)
}

func TestVolumeThatCannotBeDetachedIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	stuck, other := specOf("stuck"), specOf("other")
	mount(t, m, stuck)()
	mount(t, m, other)()
	w.driver.detach = func(id string) error {
		if id == stuck.ID() {
			return errBroken
		}
		return nil
	}
	idle, err := m.Idle()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Sweep(t.Context(), idle, nil); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), stuck.ID()) {
		t.Errorf("sweep: %v, want the stuck volume's error", err)
	}
	if !exists(t, w.record(stuck)) {
		t.Error("the record of a volume that is still mounted is gone")
	}
	if exists(t, w.record(other)) {
		t.Error("one stuck volume kept another")
	}
	w.driver.detach = nil
	sweep(t, m)
	w.expect(t, m)
}

func TestPullWaitsForAVolumeThatIsBeingForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a")
	mount(t, m, spec)()
	detaching, goOn := make(chan struct{}), make(chan struct{})
	w.driver.detach = func(string) error { close(detaching); <-goOn; return nil }

	var wg sync.WaitGroup
	wg.Go(func() { sweep(t, m) })
	<-detaching
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := m.Mount(ctx, spec, registry.Credentials{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a pull that is given up goes on waiting: %v", err)
	}
	wg.Go(func() {
		if _, _, err := m.Mount(t.Context(), spec, registry.Credentials{}); err != nil {
			t.Errorf("mount: %v", err)
		}
	})
	close(goOn)
	wg.Wait()
	w.driver.detach = nil
	if n := w.driver.attached(); n != 2 {
		t.Errorf("attached %d times, want anew after it was forgotten", n)
	}
	w.expect(t, m, spec)
}

// Whoever holds a pin sees the volume mounted, whatever the sweeps beside do.
func TestPinsHoldAgainstSweeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	specs := []volume.Spec{specOf("base", "a"), specOf("base", "b"), specOf("c")}
	done := make(chan struct{})
	var sweeps, pulls sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					sweep(t, m)
				}
			}
		})
	}
	for i := range 6 {
		spec := specs[i%len(specs)]
		pulls.Go(func() {
			for range 50 {
				release, _, err := m.Mount(t.Context(), spec, registry.Credentials{})
				if err != nil {
					t.Errorf("mount: %v", err)
					return
				}
				if !m.Mounted(spec.ID()) || !exists(t, w.record(spec)) || !exists(t, filepath.Join(w.target(spec), mark)) {
					t.Error("a pinned volume was taken away")
				}
				release()
			}
		})
	}
	pulls.Wait()
	close(done)
	sweeps.Wait()
	sweep(t, m)
	w.expect(t, m)
}

func TestRestoreMountsWhatIsOnRecord(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]bool{"mounts are gone": false, "mounts are adopted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a, b, foreign, unknown := specOf("base", "a"), specOf("base", "b"), specOf("foreign"), specOf("unknown")
			former := w.manager(t)
			mount(t, former, a)()
			mount(t, former, b)()
			if err := former.Close(); err != nil {
				t.Fatal(err)
			}
			for _, spec := range []volume.Spec{a, b} {
				if !exists(t, filepath.Join(w.target(spec), mark)) {
					t.Fatal("Close took a mount away")
				}
			}
			copyFile(t, w.record(a), w.record(foreign)) // what it describes is not what it is called

			w.restart(kept)
			m := w.manager(t)
			err := m.Restore(t.Context(), []string{unknown.ID(), a.ID(), foreign.ID(), b.ID()})
			for _, spec := range []volume.Spec{unknown, foreign} {
				if err == nil || !strings.Contains(err.Error(), "restore volume "+spec.ID()) {
					t.Errorf("restore: %v does not name %s", err, spec.ID())
				}
			}
			if err := m.Restore(t.Context(), []string{a.ID(), b.ID()}); err != nil { // nothing is left to do
				t.Errorf("restore again: %v", err)
			}
			m.Restored()
			want := 2
			if kept {
				want = 0
			}
			if got := w.driver.attached(); got != want {
				t.Errorf("attached %d volumes, want %d", got, want)
			}
			if w.driver.adopted != 1 {
				t.Errorf("driver was told %d times that all is adopted", w.driver.adopted)
			}
			sweep(t, m, a, b) // the record that lies goes
			w.expect(t, m, a, b)
			sweep(t, m)
			w.expect(t, m)
		})
	}
}

func TestLeftoversOfACrashAreSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	former := w.manager(t)
	unrecorded, unreadable, whole := specOf("a"), specOf("b"), specOf("c")
	for _, spec := range []volume.Spec{unrecorded, unreadable, whole} {
		mount(t, former, spec)()
	}
	if err := os.Remove(w.record(unrecorded)); err != nil { // died between mounting and writing the record
		t.Fatal(err)
	}
	if err := os.WriteFile(w.record(unreadable), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(w.root, "volumes", ".tmp-123")
	if err := os.WriteFile(unfinished, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	w.restart(false)
	m := w.manager(t)
	if exists(t, unfinished) {
		t.Error("an unfinished record is still there")
	}
	if err := m.Restore(t.Context(), []string{whole.ID()}); err != nil {
		t.Fatal(err)
	}
	sweep(t, m, whole)
	// What was fetched for the others is known only to the cache.
	delete(w.blobs.cached, unrecorded.Layers[0].Digest)
	delete(w.blobs.cached, unreadable.Layers[0].Digest)
	w.expect(t, m, whole)
}

func TestCredentialsAreRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a", "b")
	if err := m.Renew(t.Context(), spec.ID(), "mirror.test/app", registry.Credentials{Username: "early"}); err != nil {
		t.Errorf("renew what is not mounted: %v", err)
	}
	release := mount(t, m, spec)
	defer release()
	expect := func(want string) {
		t.Helper()
		for _, layer := range spec.Layers {
			if got := w.blobs.renewal(layer.Digest); got != want {
				t.Errorf("layer %s is read as %q, want %q", layer.Digest, got, want)
			}
		}
	}
	expect("") // those it was opened with
	second := spec
	second.Repository = "registry.test/other"
	again, _, err := m.Mount(t.Context(), second, registry.Credentials{Username: "second"})
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	expect("registry.test/other second")
	if err := m.Renew(t.Context(), spec.ID(), "registry.test/app", registry.Credentials{Username: "third"}); err != nil {
		t.Fatal(err)
	}
	expect("registry.test/app third")
	if err := m.Renew(t.Context(), spec.ID(), "liar.test/app", registry.Credentials{Username: "fourth"}); err != nil {
		t.Fatal(err)
	}
	expect("registry.test/app third") // another registry may serve anything
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
