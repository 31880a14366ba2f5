package graft

import (
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// expectAfterCollecting fails the test unless the chains below the top, and the
// top, are in these states once containerd has collected its garbage.
func (b *bed) expectAfterCollecting(t *testing.T, below, top State) {
	t.Helper()
	if err := b.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expectState(t, "low", below)
	b.expectState(t, "middle", below)
	b.expectState(t, "top", top)
}

// TestPullsShareWhatOneMade ends the pull that made the placeholders, and the graft
// over them, while others are still on their way up the same chains.
func TestPullsShareWhatOneMade(t *testing.T) {
	t.Parallel()
	b := newBed(t, "")
	chains := []digest.Digest{chain("low"), chain("middle"), chain("top")}
	first, err := b.Begin(t.Context(), chains)
	if err != nil {
		t.Fatal(err)
	}
	defer first.End(t.Context())
	second, err := b.Begin(t.Context(), chains)
	if err != nil {
		t.Fatal(err)
	}
	defer second.End(t.Context())
	b.mountVolume(t, "top")
	if err := first.Graft(t.Context(), "top"); err != nil {
		t.Fatal(err)
	}
	third, err := b.Shield(t.Context(), chains)
	if err != nil {
		t.Fatal(err)
	}
	defer third.End(t.Context())

	first.End(t.Context())
	b.expectAfterCollecting(t, Placeholder, Grafted)
	second.End(t.Context())
	b.expectAfterCollecting(t, Placeholder, Grafted)
	third.End(t.Context())
	b.expectAfterCollecting(t, Absent, Absent)
}

// TestPullsThatBeginTogether lets pulls compete for who makes which placeholder.
func TestPullsThatBeginTogether(t *testing.T) {
	t.Parallel()
	b := newBed(t, "")
	chains := []digest.Digest{chain("low"), chain("middle"), chain("top")}
	const rounds = 10
	for round := range rounds {
		pulls := make([]*Pull, 3)
		var group errgroup.Group
		for i := range pulls {
			group.Go(func() (err error) {
				pulls[i], err = b.Begin(t.Context(), chains)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		for i := range pulls { // none is always the first to go
			b.expectAfterCollecting(t, Placeholder, Absent)
			pulls[(round+i)%len(pulls)].End(t.Context())
		}
		b.expectAfterCollecting(t, Absent, Absent)
	}
}
