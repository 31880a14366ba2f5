package e2e_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/images"
	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/treecmp"
)

// realImage is a real program in a real distribution's files, and how to ask it
// whether it works.
type realImage struct {
	name   string
	answer func(*testing.T, *node.Container)
}

var realImages = []realImage{
	{"redis", answersRedis},
	{"redis-bigfile", answersRedis}, // one of its files is larger than 4 GiB
	{"python", func(t *testing.T, c *node.Container) {
		t.Helper()
		if err := c.WaitLog(t.Context(), "ready 45"); err != nil {
			t.Error(err)
		}
	}},
}

func answersRedis(t *testing.T, c *node.Container) {
	t.Helper()
	if err := c.WaitLog(t.Context(), "Ready to accept connections"); err != nil {
		t.Error(err)
	}
	out, err := c.Output(t.Context(), "redis-cli", "ping")
	if err != nil || strings.TrimSpace(out) != "PONG" {
		t.Errorf("redis answers %q, %v", out, err)
	}
}

// TestRealImages converts images built from Debian packages and pulls them both
// ways: the containers answer, and show the same trees.
func TestRealImages(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	plain := node.Run(t, node.Options{})
	for _, image := range realImages {
		t.Run(image.name, func(t *testing.T) {
			layout, err := images.Build(t.Context(), image.name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.registry.LoadLayout(image.name, layout); err != nil {
				t.Fatal(err)
			}
			ref := b.registry.Ref(image.name, images.Tag)
			b.run(t, "convert", ref)

			if _, err := plain.CRI().Pull(t.Context(), ref, nil); err != nil {
				t.Fatal(err)
			}
			want := start(t, plain.CRI(), ref)
			image.answer(t, want)
			removePodNow := func(c *node.Container) { removePod(t, c) }
			wantTree := treeOf(t, plain, want)
			removePodNow(want) // redis of the two nodes would share the host's port

			b.registry.ResetRequests()
			b.pull(t, ref, fallback.Lazy)
			b.expectNoLayerFetched(t, layout, images.Tag)
			got := start(t, b.lazy, ref)
			image.answer(t, got)
			expectTree(t, wantTree, treeOf(t, b.Node, got), slices.Concat(madeByRuntime, madeByRun)...)
			removePodNow(got)
			b.expectReleased(t, ref)
			if err := plain.CRI().Remove(t.Context(), ref); err != nil {
				t.Error(err)
			}
		})
	}
}

// madeByRun is what the programs themselves write while they run.
var madeByRun = []treecmp.Ignore{
	{Path: "/data", Field: treecmp.FieldMtime, Why: "redis works there"},
	{Path: "/data", Field: treecmp.FieldNsec, Why: "redis works there"},
}
