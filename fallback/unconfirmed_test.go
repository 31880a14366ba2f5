package fallback_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/negotiate"
)

var (
	pulled  = digest.FromString("pulled")
	foreign = fallback.Standing{Chain: chains[1], Volume: "volume-2", Repository: "registry.example/other"}
)

// poisoned is a node whose pull ends on what nobody confirms and whose layers
// cannot be had.
func poisoned() *world {
	return &world{
		stands: []fallback.Standing{foreign},
		plan:   func(context.Context) (*negotiate.Plan, error) { return nil, errors.New("no answer") },
		image: func(context.Context) (*negotiate.Image, error) {
			return &negotiate.Image{ChainIDs: chains}, nil
		},
		restore: func(context.Context, digest.Digest) error { return errors.New("gone") },
	}
}

func (w *world) tag(target digest.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target = target
}

// TestWithdraw: what a pull brought and nobody confirmed must not be there when
// the kubelet looks, whichever way the pull ended.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	cancelled := errors.New("cancelled")
	for name, tc := range map[string]struct {
		before, after digest.Digest
		fit           bool
		confirm       bool          // the caller stayed until then
		late          time.Duration // after the pull's end containerd writes its record
		withdrawn     bool
	}{
		"refused":                           {after: pulled, confirm: true, withdrawn: true},
		"refused, the tag had another":      {before: manifest, after: pulled, confirm: true, withdrawn: true},
		"refused, it was there before":      {before: pulled, after: pulled, confirm: true},
		"nobody waited for it":              {after: pulled, withdrawn: true},
		"nobody waited, it came afterwards": {after: pulled, late: time.Second, withdrawn: true},
		"nobody waited for what may serve":  {after: pulled, fit: true},
		"confirmed":                         {after: pulled, fit: true, confirm: true},
		"containerd brought nothing":        {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := poisoned()
				if tc.fit {
					w.stands = nil
				}
				w.tag(tc.before)
				n := newNode(t, w, limits())
				confirm, settle, err := n.guard.Prepare(t.Context(), request(ref))
				if err != nil {
					t.Fatal(err)
				}
				if tc.late == 0 {
					w.tag(tc.after)
				}
				err = cancelled
				if tc.confirm {
					if err = confirm(t.Context()); (err == nil) != tc.fit {
						t.Errorf("confirmed: %v", err)
					}
				}
				settle(err)
				if tc.late > 0 {
					time.Sleep(tc.late) // of the bubble: no time passes
					w.tag(tc.after)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := slices.Contains(w.done(), "forget "+ref); got != tc.withdrawn {
					t.Errorf("withdrawn: %t, want %t", got, tc.withdrawn)
				}
			})
		})
	}
}

// TestRecover kills the process between a forwarded pull and its confirmation.
func TestRecover(t *testing.T) {
	t.Parallel()
	w, dir := poisoned(), t.TempDir()
	start := func() *fallback.Guard {
		journal, err := fallback.OpenJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		guard := fallback.New(w, w, journal, zap.NewNop(), limits())
		t.Cleanup(func() { _ = guard.Close(context.Background()) })
		return guard
	}
	if _, _, err := start().Prepare(t.Context(), request(ref)); err != nil {
		t.Fatal(err)
	}
	w.tag(pulled) // and nobody confirms or settles

	image := w.image
	w.image = func(context.Context) (*negotiate.Image, error) { return nil, errors.New("containerd starts") }
	w.stands = nil
	w.done()
	if err := start().Recover(t.Context()); err != nil || !slices.Contains(w.done(), "forget "+ref) {
		t.Errorf("an image that containerd tells nothing of is there: %v", err)
	}
	w.image = image
	w.stands = []fallback.Standing{foreign}
	w.tag(pulled)
	if err := start().Recover(t.Context()); err != nil || slices.Contains(w.done(), "forget "+ref) {
		t.Errorf("looked at again: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "unconfirmed", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestPanicIsNoConsent: a defect of ours before the pull is forwarded does not
// keep anybody from looking at it afterwards.
func TestPanicIsNoConsent(t *testing.T) {
	t.Parallel()
	w := poisoned()
	w.plan = func(context.Context) (*negotiate.Plan, error) { return lazyPlan(), nil }
	w.attach = func(context.Context) error { return errors.New("cannot") }
	options := limits()
	panics := true
	options.Rules = func(string) *negotiate.Rules {
		if panics {
			panics = false
			panic("defect")
		}
		return &negotiate.Rules{}
	}
	n := newNode(t, w, options)
	confirm, settle, err := n.guard.Prepare(t.Context(), request(ref))
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	w.tag(pulled)
	if err = confirm(t.Context()); err == nil {
		t.Error("confirmed")
	}
	settle(err)
	if w.owed() != 0 {
		t.Errorf("%d releases owed", w.owed())
	}
	if !slices.Contains(w.done(), "forget "+ref) {
		t.Error("not withdrawn")
	}
}
