package cache

import (
	"context"
	"sync/atomic"
)

const (
	judged    = 8  // guesses are judged when so many more have been made
	underWay  = 4  // fetches of one blob that nobody waits for, at most
	probation = 16 // misses between guesses where they have not been of use
)

// guesses is what was fetched of a blob without being asked for, and how much to
// fetch the next time: twice as much after a guess that was of use, half as much
// after one that was not, and down to nothing. A program that starts touches files
// that were packed side by side; a database does not.
type guesses struct {
	made [judged]atomic.Pointer[guessed] // a ring

	// Under file.mu.
	next int
	size int64
	idle int // misses since the last guess
}

type guessed struct {
	off, end int64
	used     atomic.Bool
}

// touch notes that off is read.
func (g *guesses) touch(off int64) {
	for i := range g.made {
		if made := g.made[i].Load(); made != nil && made.off <= off && off < made.end && !made.used.Load() {
			made.used.Store(true)
		}
	}
}

// worth is how much to fetch behind a lone miss, 0 for nothing.
func (g *guesses) worth(least int64) int64 {
	g.idle++
	if g.size >= least {
		return g.size
	}
	if g.idle < probation {
		return 0
	}
	return least
}

// note remembers a guess and judges the one whose place it takes.
func (g *guesses) note(off, end, most int64) {
	g.idle = 0
	if old := g.made[g.next].Swap(&guessed{off: off, end: end}); old != nil {
		if old.used.Load() {
			g.size = min(2*max(g.size, old.end-old.off), most)
		} else {
			g.size /= 2
		}
	}
	g.next = (g.next + 1) % judged
}

// guess fetches what lies behind a read that came out of nowhere, while the link
// would be idle anyway: that saves the round trips of asking for one neighbour
// after another. The caller holds f.mu.
func (f *file) guess(ctx context.Context, reached int64) {
	opts := f.store.opts
	if opts.Guess < opts.FetchSize || hurried(ctx) || f.unattended() >= underWay {
		return
	}
	n := f.guesses.worth(opts.FetchSize)
	if n == 0 {
		return
	}
	if end := min(reached+n, f.entry.size); f.fetchAhead(ctx, reached, end) {
		f.guesses.note(reached, end, opts.Guess)
	}
}

// unattended is how many fetches are under way that nobody waits for, as far as is
// known. The caller holds f.mu.
func (f *file) unattended() int {
	n := 0
	for _, fe := range f.fetches {
		if fe.ahead || fe.served {
			n++
		}
	}
	return n
}
