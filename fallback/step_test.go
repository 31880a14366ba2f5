package fallback_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// Steps that ignore their context cost their limit and the grace, no more, and
// what they bring too late is given back.
func TestHangingSteps(t *testing.T) {
	t.Parallel()
	const grace = 200 * time.Millisecond
	for name, tc := range map[string]struct {
		hangs   func(w *world, until <-chan struct{})
		took    time.Duration
		reason  reason.Code
		outcome fallback.Outcome
		after   []string // calls once the step comes back
	}{
		"planning": {
			func(w *world, until <-chan struct{}) {
				w.plan = func(context.Context) (*negotiate.Plan, error) { <-until; return lazyPlan(), nil }
			},
			3*time.Second + grace, reason.BudgetExceeded, fallback.Ordinary, nil,
		},
		"asking what is here": {
			func(w *world, until <-chan struct{}) {
				w.present = func(context.Context, string) ([]digest.Digest, error) { <-until; return chains, nil }
			},
			2*time.Second + grace, reason.None, fallback.Lazy, nil,
		},
		"attaching": {
			func(w *world, until <-chan struct{}) { w.attach = func(context.Context) error { <-until; return nil } },
			10*time.Second + grace, reason.BudgetExceeded, fallback.Ordinary,
			[]string{"release attach"},
		},
		"shielding": {
			func(w *world, until <-chan struct{}) {
				w.plan = planFails(reason.NotFound)
				w.shield = func(context.Context) error { <-until; return nil }
			},
			2*time.Second + grace, reason.NotFound, fallback.Ordinary,
			[]string{"release shield"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, until := &world{}, make(chan struct{})
				tc.hangs(w, until)
				n := newNode(t, w, limits())
				begin := time.Now()
				settle := prepare(t.Context(), t, n.guard, request(ref))
				if took := time.Since(begin); took != tc.took {
					t.Errorf("the pull waited %s, want %s", took, tc.took)
				}
				settle(nil)
				if entry := n.last(t, ref); entry.Reason != tc.reason || entry.Outcome != tc.outcome {
					t.Errorf("journal: %s, %q, %q", entry.Outcome, entry.Reason, entry.Sentence)
				}
				impatient, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := n.guard.Close(impatient); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Close with a step under way: %v", err)
				}
				n.done()
				close(until)
				if err := n.guard.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(tc.after, n.done()); diff != "" {
					t.Errorf("calls once the step came back (-want +got):\n%s", diff)
				}
				if n.owed() != 0 {
					t.Errorf("%d releases are still owed", n.owed())
				}
			})
		})
	}
}

func TestAllStepsHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		until := make(chan struct{})
		stuck := func(context.Context) error { <-until; return errors.New("too late") }
		n := newNode(t, &world{
			present: func(ctx context.Context, _ string) ([]digest.Digest, error) { return nil, stuck(ctx) },
			attach:  stuck,
			shield:  stuck,
		}, limits())
		begin := time.Now()
		settle := prepare(t.Context(), t, n.guard, request(ref))
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("the pull waited %s: more than the sum of the limits", took)
		}
		settle(nil)
		close(until)
		if err := n.guard.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestReleaseThatHangsDoesNotHoldTheNextPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{}, limits())
		until := make(chan struct{})
		guard := fallback.New(n.world, stickyNode{n.world, until}, n.journal, nopLog(), limits())
		settle := prepare(t.Context(), t, guard, request(ref))
		begin := time.Now()
		settle(nil)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("settle took %s", took)
		}
		if entry := n.last(t, ref); len(entry.Warnings) != 1 {
			t.Errorf("warnings: %q", entry.Warnings)
		}
		close(until)
		if err := guard.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// stickyNode gives releases that hang.
type stickyNode struct {
	*world
	until <-chan struct{}
}

func (s stickyNode) Attach(ctx context.Context, pull fallback.Pull, plan *negotiate.Plan) (fallback.Attached, error) {
	attached, err := s.world.Attach(ctx, pull, plan)
	attached.Release = func() { <-s.until }
	return attached, err
}
