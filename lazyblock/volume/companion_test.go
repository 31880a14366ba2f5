package volume_test

import (
	"slices"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// companion reads what it is told of until it is told to stop.
type companion struct {
	t    *testing.T
	told []string
}

func (c *companion) Opened(m volume.Mounted) (done func()) {
	id, blobs := m.ID, m.Blobs
	if want := len(m.Spec.Blobs()); len(blobs) != want {
		c.t.Errorf("told of %d blobs, want %d", len(blobs), want)
	}
	c.told = append(c.told, "opened "+id)
	return func() {
		c.told = append(c.told, "done "+id)
		for _, b := range blobs {
			fake, ok := b.(*blob)
			if !ok {
				c.t.Fatalf("told of a %T", b)
			}
			fake.blobs.mu.Lock()
			if fake.blobs.opened[fake.desc.Digest] == 0 {
				c.t.Errorf("blob %s was closed while it was used", fake.desc.Digest)
			}
			fake.blobs.mu.Unlock()
		}
	}
}

func (c *companion) expect(what ...string) {
	c.t.Helper()
	if !slices.Equal(c.told, what) {
		c.t.Errorf("told %q, want %q", c.told, what)
	}
	c.told = nil
}

func TestCompanionsAreToldOfMountedVolumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := &companion{t: t}
	open := func() *volume.Manager {
		m, err := volume.NewManager(volume.Options{
			Root: w.root, State: w.state, Driver: w.driver, Blobs: w.blobs,
			Formats:     map[string]volume.Opener{"plain": w.opener},
			GiveUpAfter: time.Minute,
			Companions:  []volume.Companion{c},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	spec := specOf("a", "b")
	mount(t, m, spec)()
	c.expect("opened " + spec.ID())
	mount(t, m, spec)()
	c.expect()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	c.expect("done " + spec.ID())

	w.restart(true)
	m = open()
	if err := m.Restore(t.Context(), []string{spec.ID()}); err != nil {
		t.Fatal(err)
	}
	c.expect("opened " + spec.ID())
	sweep(t, m)
	c.expect("done " + spec.ID())

	unknown := specOf("c")
	unknown.Format = "unknown"
	if _, _, err := m.Mount(t.Context(), unknown, registry.Credentials{}); err == nil {
		t.Error("mounted an unknown format")
	}
	c.expect()
}
