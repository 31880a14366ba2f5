package fallback_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

func fails(code reason.Code) func(context.Context) error {
	return func(context.Context) error { return reason.Errorf(code, "broken on purpose") }
}

func planFails(code reason.Code) func(context.Context) (*negotiate.Plan, error) {
	return func(context.Context) (*negotiate.Plan, error) { return nil, reason.Errorf(code, "broken on purpose") }
}

// Every step, in every way in which it can end: what the node is asked to do,
// what the journal says, how long the pull waits.
func TestOnePull(t *testing.T) {
	t.Parallel()
	here := func(context.Context, string) ([]digest.Digest, error) { return chains[:1], nil }
	for name, tc := range map[string]struct {
		world    *world
		image    string // ref if empty
		calls    []string
		shielded []digest.Digest
		outcome  fallback.Outcome
		reason   reason.Code
		sentence string
		warning  string
		took     time.Duration // until the pull is forwarded
	}{
		"all is well": {
			world: &world{}, outcome: fallback.Lazy,
			calls: []string{"plan", "present", "attach", "release attach"},
		},
		"nothing is attached": {
			world: &world{plan: func(context.Context) (*negotiate.Plan, error) {
				return ordinaryPlan(reason.NoReferrers, "nothing is attached to it"), nil
			}},
			calls: []string{"plan", "present", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.NoReferrers, sentence: "nothing is attached to it",
		},
		"the plan does not say why": {
			world: &world{plan: func(context.Context) (*negotiate.Plan, error) { return ordinaryPlan("", ""), nil }},
			calls: []string{"plan", "present", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.NoMatch,
		},
		"the image cannot be resolved": {
			world:   &world{plan: planFails(reason.NotFound)},
			calls:   []string{"plan", "shield", "release shield"},
			outcome: fallback.Ordinary, reason: reason.NotFound, sentence: "broken on purpose",
		},
		"negotiation takes too long and says so": {
			world:   &world{plan: func(ctx context.Context) (*negotiate.Plan, error) { <-ctx.Done(); return nil, ctx.Err() }},
			calls:   []string{"plan", "shield", "release shield"},
			outcome: fallback.Ordinary, reason: reason.BudgetExceeded, took: 3 * time.Second,
		},
		"negotiation finishes just after its limit": {
			world:   &world{plan: func(ctx context.Context) (*negotiate.Plan, error) { <-ctx.Done(); return lazyPlan(), nil }},
			calls:   []string{"plan", "present", "attach", "release attach"},
			outcome: fallback.Lazy, took: 3 * time.Second,
		},
		"negotiation panics": {
			world:   &world{plan: func(context.Context) (*negotiate.Plan, error) { panic("a defect") }},
			calls:   []string{"plan", "shield", "release shield"},
			outcome: fallback.Ordinary, reason: reason.Internal, sentence: "a defect",
		},
		"negotiation returns nothing": {
			world:   &world{plan: func(context.Context) (*negotiate.Plan, error) { return nil, nil }},
			calls:   []string{"plan", "shield", "release shield"},
			outcome: fallback.Ordinary, reason: reason.Internal,
		},
		"the resolved image is here": {
			world: &world{present: here},
			calls: []string{"plan", "present", "shield", "release shield", "renew u"}, shielded: chains[:1],
			outcome: fallback.Ordinary, reason: reason.AlreadyPresent,
		},
		"the pinned image is here": {
			world: &world{present: here}, image: "registry.example/app@" + manifest.String(),
			calls: []string{"present", "shield", "release shield", "renew u"}, shielded: chains[:1],
			outcome: fallback.Ordinary, reason: reason.AlreadyPresent,
		},
		"the image is here under another name": {
			world: &world{attach: fails(reason.AlreadyPresent)},
			calls: []string{"plan", "present", "attach", "shield", "release shield", "renew u"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.AlreadyPresent,
		},
		"containerd does not say what is here": {
			world:   &world{present: func(context.Context, string) ([]digest.Digest, error) { return nil, errors.New("gone fishing") }},
			calls:   []string{"plan", "present", "attach", "release attach"},
			outcome: fallback.Lazy, warning: "gone fishing",
		},
		"attaching fails": {
			world: &world{attach: fails(reason.AttachFailed)},
			calls: []string{"plan", "present", "attach", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.AttachFailed, sentence: "broken on purpose",
		},
		"attaching fails without a code": {
			world: &world{attach: func(context.Context) error { return errors.New("who knows") }},
			calls: []string{"plan", "present", "attach", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.Internal, sentence: "who knows",
		},
		"attaching takes too long and says so": {
			world: &world{attach: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			calls: []string{"plan", "present", "attach", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.BudgetExceeded, took: 10 * time.Second,
		},
		"attaching panics": {
			world: &world{attach: func(context.Context) error { panic("a defect") }},
			calls: []string{"plan", "present", "attach", "shield", "release shield"}, shielded: chains,
			outcome: fallback.Ordinary, reason: reason.Internal, sentence: "a defect",
		},
		"shielding fails": {
			world:   &world{plan: planFails(reason.NotFound), shield: fails(reason.Internal)},
			calls:   []string{"plan", "shield"},
			outcome: fallback.Ordinary, reason: reason.NotFound, warning: "shield the pull: broken on purpose",
		},
		"shielding takes too long and says so": {
			world:   &world{plan: planFails(reason.NotFound), shield: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			calls:   []string{"plan", "shield"},
			outcome: fallback.Ordinary, reason: reason.NotFound, warning: "shield the pull", took: 2 * time.Second,
		},
		"the reference is none": {
			world: &world{}, image: "Not A Reference",
			calls: []string{"shield", "release shield"}, outcome: fallback.Ordinary, reason: reason.BadRequest,
		},
		"the reference is disabled": {
			world: &world{}, image: "registry.example/off/app:2",
			calls: []string{"shield", "release shield"}, outcome: fallback.Ordinary, reason: reason.Disabled, sentence: `"registry.example/off/*"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				options := limits()
				options.Disabled = []string{"registry.example/off/*"}
				n := newNode(t, tc.world, options)
				image := tc.image
				if image == "" {
					image = ref
				}
				begin := time.Now()
				settle := prepare(t.Context(), t, n.guard, request(image))
				took := time.Since(begin)
				time.Sleep(time.Second)
				settle(nil)

				if diff := cmp.Diff(tc.calls, n.done()); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if len(n.shields) == 1 {
					if diff := cmp.Diff(tc.shielded, n.shields[0]); diff != "" {
						t.Errorf("shielded chains (-want +got):\n%s", diff)
					}
				}
				if took != tc.took {
					t.Errorf("the pull waited %s, want %s", took, tc.took)
				}
				if n.owed() != 0 {
					t.Errorf("%d releases are still owed", n.owed())
				}
				entry := n.last(t, image)
				if entry.Outcome != tc.outcome || entry.Reason != tc.reason || !strings.Contains(entry.Sentence, tc.sentence) {
					t.Errorf("journal: %s, %q, %q", entry.Outcome, entry.Reason, entry.Sentence)
				}
				if got := strings.Join(entry.Warnings, "\n"); !strings.Contains(got, tc.warning) || (tc.warning == "") != (got == "") {
					t.Errorf("warnings %q, want %q", got, tc.warning)
				}
				if entry.Forward == nil || entry.Forward.Error != "" || entry.Steps.Forward.Duration() != time.Second {
					t.Errorf("the forwarded pull is journalled as %+v, %v", entry.Forward, entry.Steps)
				}
				if err := n.guard.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCallerWhoLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{plan: func(ctx context.Context) (*negotiate.Plan, error) {
			<-ctx.Done()
			return nil, reason.Wrap(reason.RegistryUnreachable, ctx.Err())
		}}, limits())
		for range 4 { // more often than a breaker would take
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			begin := time.Now()
			settle := prepare(ctx, t, n.guard, request(ref))
			if took := time.Since(begin); took != time.Second {
				t.Errorf("returned %s after it was asked, one second before which the caller left", took)
			}
			settle(context.Canceled)
			if entry := n.last(t, ref); entry.Reason != reason.Cancelled || entry.Forward.Error == "" {
				t.Errorf("journal: %+v", entry)
			}
			if diff := cmp.Diff([]string{"plan"}, n.done()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		}
	})
}

// What is present and was resolved just now asks the registry nothing, and
// leaves the decision that brought it there in the journal.
func TestRepeatedPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		n := newNode(t, w, limits())
		first := n.pull(t, ref, nil)
		if first.Outcome != fallback.Lazy || first.Resolved.IsZero() {
			t.Fatalf("first pull: %+v", first)
		}
		n.done()
		w.present = func(context.Context, string) ([]digest.Digest, error) { return chains, nil }

		for range 2 {
			time.Sleep(time.Minute)
			n.pull(t, ref, nil)
			if diff := cmp.Diff([]string{"present", "shield", "release shield", "renew u"}, n.done()); diff != "" {
				t.Errorf("calls within recheck_after (-want +got):\n%s", diff)
			}
		}
		again := n.last(t, ref)
		if again.Outcome != fallback.Lazy || again.Format != "overlaybd" || !again.Time.Equal(first.Time) || again.Repeated != 2 || again.RepeatedAt == nil {
			t.Errorf("the decision was not kept: %+v", again)
		}
		if !again.Resolved.Equal(first.Resolved) {
			t.Error("a pull that asked nobody prolongs the time until somebody is asked")
		}

		time.Sleep(5 * time.Minute)
		rechecked := n.pull(t, ref, nil)
		if diff := cmp.Diff([]string{"plan", "present", "shield", "release shield", "renew u"}, n.done()); diff != "" {
			t.Errorf("calls after recheck_after (-want +got):\n%s", diff)
		}
		if rechecked.Repeated != 3 || !rechecked.Resolved.After(first.Resolved) {
			t.Errorf("after the recheck: %+v", rechecked)
		}

		w.present = nil // somebody removed it
		n.pull(t, ref, nil)
		if diff := cmp.Diff([]string{"present", "plan", "present", "attach", "release attach"}, n.done()); diff != "" {
			t.Errorf("calls after a removal (-want +got):\n%s", diff)
		}
	})
}

func TestFailedPullVoidsTheRecheckTime(t *testing.T) {
	t.Parallel()
	for name, image := range map[string]string{"a tag": ref, "a digest": "registry.example/app@" + manifest.String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := &world{present: func(context.Context, string) ([]digest.Digest, error) { return chains, nil }}
				n := newNode(t, w, limits())
				n.pull(t, image, errors.New("stat parent: no such file or directory"))
				n.done()
				n.pull(t, image, nil)
				if calls := n.done(); calls[0] != "plan" {
					t.Errorf("the reference was taken to mean what it meant: %q", calls)
				}
			})
		})
	}
}

func TestMovedTagReplacesTheDecision(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		n := newNode(t, w, limits())
		n.pull(t, ref, nil)
		time.Sleep(time.Hour)
		other := digest.FromString("another manifest")
		w.plan = func(context.Context) (*negotiate.Plan, error) {
			plan := lazyPlan()
			plan.Image.Index = &ocispec.Descriptor{Digest: digest.FromString("index")}
			plan.Image.Manifest.Digest = other
			return plan, nil
		}
		w.present = func(context.Context, string) ([]digest.Digest, error) { return chains, nil }
		if entry := n.pull(t, ref, nil); entry.Manifest != other || entry.Reason != reason.AlreadyPresent || entry.Repeated != 0 {
			t.Errorf("journal: %+v", entry)
		}
		if got, want := n.looked[len(n.looked)-1], "registry.example/app@"+digest.FromString("index").String(); got != want {
			t.Errorf("looked for %s, want %s", got, want)
		}
	})
}

func TestManyPullsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pulls = 50
		together := make(chan struct{})
		n := newNode(t, &world{attach: func(context.Context) error { <-together; return nil }}, limits())
		var all sync.WaitGroup
		for i := range pulls {
			all.Go(func() {
				settle := prepare(t.Context(), t, n.guard, request(fmt.Sprintf("registry.example/app%d:1", i)))
				settle(nil)
			})
		}
		synctest.Wait() // every one of them is attaching: none waits for another
		if calls := n.done(); len(calls) != 3*pulls {
			t.Errorf("%d calls, want %d", len(calls), 3*pulls)
		}
		close(together)
		all.Wait()
		entries, err := n.journal.All()
		if err != nil || len(entries) != pulls || n.owed() != 0 {
			t.Errorf("%d entries, %v, %d releases owed", len(entries), err, n.owed())
		}
	})
}

func TestOneLineAPullWithoutSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{attach: fails(reason.GraftFailed)}, limits())
		n.pull(t, ref, errors.New("no space left"))
		if n.asked[0].Reference != ref || n.asked[0].Auth.GetPassword() != "hunter2" {
			t.Errorf("the planner was asked for %v", n.asked[0].Reference)
		}
		lines := n.log.All()
		if len(lines) != 1 || lines[0].Message != "pull" {
			t.Fatalf("%d lines: %v", len(lines), lines)
		}
		fields := lines[0].ContextMap()
		if fields["ref"] != ref || fields["outcome"] != "ordinary" || fields["reason"] != "graft-failed" || fields["error"] != "no space left" {
			t.Errorf("fields: %v", fields)
		}
		if strings.Contains(fmt.Sprint(lines, n.last(t, ref)), "hunter2") {
			t.Error("a password was logged or journalled")
		}
	})
}

func TestShortReferencesAreNormalisedAndHintsPassedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{}, limits())
		if entry := n.pull(t, "redis", nil); entry.Reference != "docker.io/library/redis:latest" || n.asked[0].Reference != entry.Reference {
			t.Errorf("journalled as %q", entry.Reference)
		}
		n.done()
		n.guard.ImageRemoved("redis")
		if diff := cmp.Diff([]string{"removed"}, n.done()); diff != "" {
			t.Error(diff)
		}
	})
}

// A journal that cannot be written costs the entry, not the pull.
func TestBrokenJournalDoesNotHoldAPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{}, limits())
		gone := fallback.ReadJournal(t.TempDir() + "/gone")
		guard := fallback.New(n.world, n.world, gone, nopLog(), limits())
		prepare(t.Context(), t, guard, request(ref))(nil)
		if diff := cmp.Diff([]string{"plan", "present", "attach", "release attach"}, n.done()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}
