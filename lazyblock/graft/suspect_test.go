package graft

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/e2e/node"
)

// TestSuspects unpacks layers over a graft and replaces it: they are suspect until
// they were cleared, each once and those unpacked later not at all.
func TestSuspects(t *testing.T) {
	t.Parallel()
	for _, version := range []string{node.Containerd, node.ContainerdOld} {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, version)
			graft := b.graftVolume(t, "v")
			b.graftVolume(t, "other")
			b.unpack(t, "child", "v")
			b.unpack(t, "grandchild", "child")
			b.unpack(t, "of another", "other")
			b.expectStanding(t, []string{"v", "other"}, nil)
			if err := b.Replace(t.Context(), graft.Chain, fillPlain); err != nil {
				t.Fatal(err)
			}
			b.unpack(t, "later", "v")
			b.restart(t)
			b.expectStanding(t, []string{"other"}, []string{"child", "grandchild"})

			broken := errors.New("broken")
			if err := b.Clear(t.Context(), chain("child"), func(_ context.Context, l Layer) error {
				return errors.Join(broken, os.WriteFile(filepath.Join(l.Scratch, "half"), nil, 0o600))
			}); !errors.Is(err, broken) {
				t.Errorf("a mending that fails: %v", err)
			}
			b.expectStanding(t, []string{"other"}, []string{"child", "grandchild"})

			var parents []string
			for i, name := range []string{"child", "grandchild", "child", "later", "other"} {
				calls := 0
				if err := b.Clear(t.Context(), chain(name), func(_ context.Context, l Layer) error {
					calls++
					if own, err := os.ReadFile(filepath.Join(l.Dir, "own")); err != nil || string(own) != name {
						t.Errorf("%s is at %s: %q, %v", name, l.Dir, own, err)
					}
					if len(l.Parents) != i+1 || l.Parents[i] != (place{graft.Directory}).fs() {
						t.Errorf("%s lies over %q", name, l.Parents)
					}
					expectNames(t, l.Scratch)
					parents = append(parents, l.Dir)
					return os.WriteFile(filepath.Join(l.Scratch, "rest"), nil, 0o600)
				}); err != nil {
					t.Error(err)
				}
				if want := map[bool]int{true: 1, false: 0}[i < 2]; calls != want {
					t.Errorf("%s was mended %d times, want %d", name, calls, want)
				}
			}
			b.expectStanding(t, []string{"other"}, nil)
			for _, dir := range parents {
				expectNames(t, filepath.Dir(dir), "fs", "work")
			}
			b.expectNoViews(t)
			for _, name := range []string{"later", "grandchild", "child", "v", "of another", "other"} {
				b.removeImage(t, name)
			}
			if err := b.CollectGarbage(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.expectStanding(t, nil, nil)
		})
	}
}

// unpack commits a layer over a chain as containerd does: past the mount.
func (b *bed) unpack(t *testing.T, name, parent string) {
	t.Helper()
	mounts, err := b.snapshots.Prepare(b.leased(t), "unpacking "+name, chain(parent).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.WithTempMount(t.Context(), mounts, func(root string) error {
		return os.WriteFile(filepath.Join(root, "own"), []byte(name), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.snapshots.Commit(b.leased(t), chain(name).String(), "unpacking "+name); err != nil {
		t.Fatal(err)
	}
	b.hold(t, name)
}

func (b *bed) expectStanding(t *testing.T, grafts, suspects []string) {
	t.Helper()
	gotGrafts, gotSuspects, _, err := b.Standing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct {
		got  []Graft
		want []string
	}{{gotGrafts, grafts}, {gotSuspects, suspects}} {
		var got, want []string
		for _, graft := range list.got {
			got = append(got, graft.Chain.String())
		}
		for _, name := range list.want {
			want = append(want, chain(name).String())
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("chains (-want +got):\n%s", diff)
		}
	}
}

func (b *bed) expectNoViews(t *testing.T) {
	t.Helper()
	err := b.snapshots.Walk(b.context(t.Context()), func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindView {
			t.Errorf("left behind: %+v", info)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
