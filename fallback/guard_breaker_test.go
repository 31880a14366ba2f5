package fallback_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

func TestRegistryBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{plan: planFails(reason.RegistryUnreachable)}
		n := newNode(t, w, limits())
		for range 3 {
			n.pull(t, ref, nil)
		}
		n.done()
		open := n.pull(t, "registry.example/other:2", nil)
		if diff := cmp.Diff([]string{"shield", "release shield"}, n.done()); diff != "" {
			t.Errorf("calls with an open breaker (-want +got):\n%s", diff)
		}
		if open.Reason != reason.BreakerOpen || !strings.Contains(open.Sentence, "registry.example failed 3 times in a row, last with registry-unreachable") {
			t.Errorf("journal: %q, %q", open.Reason, open.Sentence)
		}
		n.pull(t, "neighbour.example/app:1", nil)
		if calls := n.done(); calls[0] != "plan" {
			t.Errorf("another registry is refused as well: %q", calls)
		}
		time.Sleep(30 * time.Second)
		w.plan = nil
		n.pull(t, ref, nil)
		if entry := n.pull(t, "registry.example/third:3", nil); entry.Outcome != fallback.Lazy {
			t.Errorf("the breaker did not close: %+v", entry)
		}
	})
}

// A registry whose manifests answer and whose blobs do not is left alone too.
func TestRegistryBreakerCountsOneVerdictAPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{attach: fails(reason.RegistryUnreachable)}, limits())
		for range 3 {
			n.pull(t, ref, nil)
		}
		if entry := n.pull(t, ref, nil); entry.Reason != reason.BreakerOpen {
			t.Errorf("journal: %q, %q", entry.Reason, entry.Sentence)
		}
	})
}

func TestFormatBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{attach: fails(reason.ProbeFailed)}
		n := newNode(t, w, limits())
		for range 3 {
			n.pull(t, ref, nil)
		}
		n.done()
		open := n.pull(t, "registry.example/other:2", nil)
		if diff := cmp.Diff([]string{"plan", "present", "shield", "release shield"}, n.done()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if open.Reason != reason.BreakerOpen || !strings.Contains(open.Sentence, "overlaybd from registry.example") {
			t.Errorf("journal: %q, %q", open.Reason, open.Sentence)
		}
		if diff := cmp.Diff(chains, n.shields[len(n.shields)-1]); diff != "" {
			t.Errorf("the chains are known, yet: %s", diff)
		}
		w.plan = func(context.Context) (*negotiate.Plan, error) {
			plan := lazyPlan()
			plan.Chosen.Format = "estargz"
			return plan, nil
		}
		n.pull(t, "registry.example/third:3", nil)
		if calls := n.done(); calls[2] != "attach" {
			t.Errorf("another format is refused as well: %q", calls)
		}
	})
}

// Which codes open a breaker, and which never do.
func TestOnlyInfrastructureOpensABreaker(t *testing.T) {
	t.Parallel()
	opens := map[string]map[reason.Code]bool{
		"plan": {reason.RegistryUnreachable: true, reason.RegistryError: true, reason.BudgetExceeded: true},
		"attach": {
			reason.RegistryUnreachable: true, reason.RegistryError: true, reason.BudgetExceeded: true, reason.NoRange: true,
			reason.AttachFailed: true, reason.ProbeFailed: true, reason.GraftFailed: true, reason.Internal: true,
		},
	}
	codes := []reason.Code{
		reason.SnapshotterMismatch, reason.BudgetExceeded, reason.Cancelled, reason.RegistryUnreachable, reason.RegistryError, reason.Unauthorized,
		reason.NotFound, reason.NoRange, reason.NoReferrers, reason.NoMatch, reason.OtherPlatform, reason.LowerRanked, reason.NotAttachable,
		reason.DigestMismatch, reason.SizeMismatch, reason.SubjectMismatch, reason.ArtifactInvalid, reason.LayerMismatch, reason.FormatCorrupt,
		reason.AttachFailed, reason.ProbeFailed, reason.GraftFailed, reason.Internal,
	}
	for step, expected := range opens {
		for _, code := range codes {
			t.Run(step+" "+string(code), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := &world{attach: fails(code)}
					if step == "plan" {
						w = &world{plan: planFails(code)}
					}
					n := newNode(t, w, limits())
					for range 4 {
						n.pull(t, ref, nil)
					}
					if got := n.last(t, ref).Reason == reason.BreakerOpen; got != expected[code] {
						t.Errorf("open: %v, want %v", got, expected[code])
					}
				})
			})
		}
	}
}

func TestFailedDiscoveryOfAResolvedImageCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &world{plan: func(context.Context) (*negotiate.Plan, error) {
			return ordinaryPlan(reason.RegistryError, "referrers: 503"), nil
		}}, limits())
		for range 3 {
			n.pull(t, ref, nil)
		}
		if entry := n.pull(t, ref, nil); entry.Reason != reason.BreakerOpen {
			t.Errorf("journal: %q", entry.Reason)
		}
	})
}
