package graft

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/reason"
)

// TestReplaceUnderRunningContainers has containers that were started before,
// created before and started after, on an image built on top, and created after.
func TestReplaceUnderRunningContainers(t *testing.T) {
	t.Parallel()
	for _, version := range []string{node.Containerd, node.ContainerdOld} {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, version)
			graft := b.graftVolume(t, "v")
			other := b.graftVolume(t, "other")
			builder := b.container(t, "builder", "v")
			if err := b.snapshots.Commit(b.leased(t), chain("child").String(), builder.key); err != nil {
				t.Fatal(err)
			}
			b.hold(t, "child")
			running, created, above, apart := b.container(t, "running", "v"), b.container(t, "created", "v"), b.container(t, "above", "child"), b.container(t, "apart", "other")
			view, err := b.snapshots.View(b.leased(t), "view", chain("v").String())
			if err != nil {
				t.Fatal(err)
			}
			viewed := container{"view", t.TempDir(), view}
			for _, c := range []container{running, above, apart, viewed} {
				c.start(t)
				c.expect(t, "volume "+map[bool]string{true: "other", false: "v"}[c.key == "apart"])
			}
			if err := b.Replace(t.Context(), graft.Chain, fillPlain); err != nil {
				t.Fatal(err)
			}
			b.expectPlain(t, graft)
			b.expectState(t, "v", Ordinary)
			b.expectGraft(t, other)
			for _, c := range []container{running, above, viewed} {
				c.expect(t, "volume v")
			}
			created.start(t)
			later, laterAbove := b.container(t, "later", "v"), b.container(t, "later-above", "child")
			for _, c := range []container{later, laterAbove} {
				c.start(t)
			}
			for _, c := range []container{created, later, laterAbove} {
				c.expect(t, "plain")
			}
			for _, c := range []container{created, viewed, later, running} {
				b.restart(t)
				b.expectWanted(t, "other", "v")
				b.remove(t, c)
			}
			b.expectWanted(t, "other", "v") // because of the one above
			b.bootID = func() (string, error) { return "another boot", nil }
			b.expectWanted(t, "other")
			b.bootID = bootID
			if err := b.Reconcile(t.Context(), mountedAll); err != nil {
				t.Fatal(err)
			}
			above.expect(t, "volume v")
			b.remove(t, above)
			b.expectWanted(t, "other")
			b.expectPlain(t, graft)
			for _, c := range []container{apart, laterAbove} {
				b.remove(t, c)
			}
			b.removeImage(t, "child")
			b.removeImage(t, "v")
			if err := b.CollectGarbage(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.expectCollected(t, graft)
		})
	}
}

// TestReplaceThatCrashed is interrupted after each of its steps; a new daemon
// brings it to one of two ends.
func TestReplaceThatCrashed(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Containerd)
	steps := []struct {
		name string
		do   func(t *testing.T, graft Graft) error
		end  func(*bed, *testing.T, Graft)
	}{
		{"begun", func(_ *testing.T, graft Graft) error { return os.Mkdir(place{graft.Directory}.plain(), 0o700) }, (*bed).expectGraft},
		{"filled", func(t *testing.T, graft Graft) error { return fillPlain(t.Context(), place{graft.Directory}.tree()) }, (*bed).expectGraft},
		{"exchanged", func(_ *testing.T, graft Graft) error { return place{graft.Directory}.swap() }, (*bed).expectPlain},
		{"readers marked", func(t *testing.T, graft Graft) error {
			_, err := b.markAbove(b.context(t.Context()), graft)
			return err
		}, (*bed).expectPlain},
		{"labelled", func(t *testing.T, graft Graft) error {
			return b.label(b.context(t.Context()), graft.Chain.String(), map[string]string{labelVolume: "", labelMaterialised: graft.Volume})
		}, (*bed).expectPlain},
		{"unmounted", func(_ *testing.T, graft Graft) error { return place{graft.Directory}.unmount() }, (*bed).expectPlain},
		{"bind removed", func(_ *testing.T, graft Graft) error { return os.Remove(place{graft.Directory}.bind()) }, (*bed).expectPlain},
	}
	for i, last := range steps {
		t.Run(last.name, func(t *testing.T) {
			graft := b.graftVolume(t, last.name)
			c := b.container(t, "of "+last.name, last.name)
			c.start(t)
			for _, step := range steps[:i+1] {
				if err := step.do(t, graft); err != nil {
					t.Fatal(err)
				}
			}
			b.restart(t)
			b.expectWanted(t, last.name)
			for range 2 {
				if err := b.Reconcile(t.Context(), mountedAll); err != nil {
					t.Fatal(err)
				}
				last.end(b, t, graft)
				c.expect(t, "volume "+last.name)
				b.expectWanted(t, last.name)
			}
			if err := b.Replace(t.Context(), graft.Chain, fillPlain); err != nil {
				t.Fatal(err)
			}
			b.expectPlain(t, graft)
			b.remove(t, c)
			b.expectWanted(t)
		})
	}
}

// TestReplaceGoesOnWhereItStopped: what was exchanged is not filled again.
func TestReplaceGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Containerd)
	graft := b.graftVolume(t, "v")
	where := place{graft.Directory}
	if err := errors.Join(os.Mkdir(where.plain(), 0o700), fillPlain(t.Context(), where.tree()), where.swap()); err != nil {
		t.Fatal(err)
	}
	err := b.Replace(t.Context(), graft.Chain, func(context.Context, string) error { return errors.New("filled twice") })
	if err != nil {
		t.Fatal(err)
	}
	b.expectPlain(t, graft)
}

func TestFailedReplaceChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Containerd)
	graft := b.graftVolume(t, "v")
	c := b.container(t, "c", "v")
	c.start(t)
	broken := reason.Errorf(reason.DigestMismatch, "broken")
	for name, tc := range map[string]struct {
		fill func(ctx context.Context, dir string) error
		want error // cancelled within fill where it is context.Canceled
	}{
		"nothing made": {func(context.Context, string) error { return broken }, broken},
		"half made":    {func(ctx context.Context, dir string) error { return errors.Join(fillPlain(ctx, dir), broken) }, broken},
		"cancelled":    {func(ctx context.Context, dir string) error { return errors.Join(fillPlain(ctx, dir), ctx.Err()) }, context.Canceled},
		"forgotten":    {func(context.Context, string) error { return nil }, os.ErrNotExist},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		err := b.Replace(ctx, graft.Chain, func(ctx context.Context, dir string) error {
			if errors.Is(tc.want, context.Canceled) {
				cancel()
			}
			return tc.fill(ctx, dir)
		})
		cancel()
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		b.expectGraft(t, graft)
		c.expect(t, "volume v")
	}
	if err := b.Replace(t.Context(), chain("absent"), fillPlain); reason.Of(err) != reason.GraftFailed {
		t.Errorf("an absent chain: %v", err)
	}
	var unlabelled []string
	err := b.snapshots.Walk(b.context(t.Context()), func(_ context.Context, info snapshots.Info) error {
		if info.Labels[labelReads] != "" {
			unlabelled = append(unlabelled, info.Name)
		}
		return nil
	})
	if err != nil || len(unlabelled) != 0 {
		t.Errorf("marked as readers: %q, %v", unlabelled, err)
	}
	leases, err := b.leases.List(b.context(t.Context()))
	if err != nil || len(leases) != 1 {
		t.Errorf("leases: %v, %v; want the test's own", leases, err)
	}
}

// TestReplacementsWaitForEachOther: the second fills after the first failed, the
// third finds the work done.
func TestReplacementsWaitForEachOther(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Containerd)
	graft := b.graftVolume(t, "v")
	var running, fills, failed atomic.Int32
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			err := b.Replace(t.Context(), graft.Chain, func(ctx context.Context, dir string) error {
				if running.Add(1) != 1 {
					t.Error("two at a time")
				}
				defer running.Add(-1)
				if err := b.Reconcile(ctx, mountedAll); err != nil { // must not disturb it
					t.Error(err)
				}
				if fills.Add(1) == 1 {
					return errors.New("the first fails")
				}
				return errors.Join(fillPlain(ctx, dir), b.Reconcile(ctx, mountedAll))
			})
			if err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	if fills.Load() != 2 || failed.Load() != 1 {
		t.Errorf("filled %d times, %d failed", fills.Load(), failed.Load())
	}
	b.expectPlain(t, graft)
}

// TestImageRemovedMeanwhile: the chain stays until the work is done, and goes then.
func TestImageRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Containerd)
	graft := b.graftVolume(t, "v")
	err := b.Replace(t.Context(), graft.Chain, func(ctx context.Context, dir string) error {
		b.removeImage(t, "v")
		if err := b.CollectGarbage(ctx); err != nil {
			t.Error(err)
		}
		b.expectState(t, "v", Grafted)
		return fillPlain(ctx, dir)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.expectCollected(t, graft)
	if _, err := os.Stat(filepath.Join(b.volumes, "v", "root", content)); err != nil {
		t.Errorf("the volume suffered: %v", err)
	}
}
