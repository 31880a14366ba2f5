package fallback_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

const ref = "registry.example/app:1"

var (
	manifest = digest.FromString("manifest")
	config   = digest.FromString("config")
	chains   = []digest.Digest{digest.FromString("chain 0"), digest.FromString("chain 1")}
)

// world plays the planner and the node. Every function may be replaced; all of
// them write down that they were called.
type world struct {
	plan    func(ctx context.Context) (*negotiate.Plan, error)
	present func(ctx context.Context, reference string) ([]digest.Digest, error)
	shield  func(ctx context.Context) error
	attach  func(ctx context.Context) error
	stands  []fallback.Standing                                  // what the node's grafts stand on
	image   func(ctx context.Context) (*negotiate.Image, error)  // that containerd holds after a pull
	restore func(ctx context.Context, chain digest.Digest) error // puts original layers in place

	mu      sync.Mutex
	calls   []string // in order
	asked   []fallback.Pull
	looked  []string
	shields [][]digest.Digest
	held    int           // releases owed
	most    int           // attached at the same time
	target  digest.Digest // that containerd's record names
}

func (w *world) called(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, name)
}

func (w *world) hold(name string) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held++
	w.most = max(w.most, w.held)
	return func() {
		w.called("release " + name)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.held--
	}
}

func (w *world) Plan(ctx context.Context, pull fallback.Pull) (*negotiate.Plan, error) {
	w.called("plan")
	w.mu.Lock()
	w.asked = append(w.asked, pull)
	w.mu.Unlock()
	if w.plan == nil {
		return lazyPlan(), nil
	}
	return w.plan(ctx)
}

func (w *world) Present(ctx context.Context, reference string) ([]digest.Digest, error) {
	w.called("present")
	w.mu.Lock()
	w.looked = append(w.looked, reference)
	w.mu.Unlock()
	if w.present == nil {
		return nil, nil
	}
	return w.present(ctx, reference)
}

func (w *world) Shield(ctx context.Context, chains []digest.Digest) (func(), error) {
	w.called("shield")
	w.mu.Lock()
	w.shields = append(w.shields, chains)
	w.mu.Unlock()
	if w.shield != nil {
		if err := w.shield(ctx); err != nil {
			return nil, err
		}
	}
	return w.hold("shield"), nil
}

func (w *world) Attach(ctx context.Context, _ fallback.Pull, _ *negotiate.Plan) (fallback.Attached, error) {
	w.called("attach")
	attached := fallback.Attached{
		Volume: "volume-1", Fetched: 2700, Open: 3 * time.Millisecond, Mount: 2 * time.Millisecond, Graft: 12 * time.Millisecond,
	}
	if w.attach != nil {
		if err := w.attach(ctx); err != nil {
			return attached, err
		}
	}
	attached.Release = w.hold("attach")
	return attached, nil
}

func (w *world) Renew(_ context.Context, pull fallback.Pull) error {
	w.called("renew " + pull.Auth.GetUsername())
	return nil
}

func (w *world) Standings(_ context.Context, chains []digest.Digest) ([]fallback.Standing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []fallback.Standing
	for _, s := range w.stands {
		if slices.Contains(chains, s.Chain) {
			found = append(found, s)
		}
	}
	return found, nil
}

func (w *world) Vouch(_ context.Context, volume, repository string) error {
	w.called("vouch " + volume + " " + repository)
	return nil
}

func (w *world) Originals(ctx context.Context, _ string) ([]*negotiate.Image, error) {
	if w.image == nil {
		return nil, nil
	}
	image, err := w.image(ctx)
	if image == nil || err != nil {
		return nil, err
	}
	return []*negotiate.Image{image}, nil
}

// Target is what the record names: nothing until somebody sets it.
func (w *world) Target(context.Context, string) (digest.Digest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target, nil
}

func (w *world) Forget(_ context.Context, reference string, target digest.Digest) error {
	w.called("forget " + reference)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.target == target {
		w.target = ""
	}
	return nil
}

// Materialise takes the graft away, as the node does.
func (w *world) Materialise(ctx context.Context, _ fallback.Pull, _ *negotiate.Image, chain digest.Digest) error {
	w.called("materialise")
	if w.restore != nil {
		if err := w.restore(ctx, chain); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stands = slices.DeleteFunc(w.stands, func(s fallback.Standing) bool { return s.Chain == chain })
	return nil
}

func (w *world) Removed() { w.called("removed") }

// done returns the calls so far and forgets them.
func (w *world) done() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := slices.Clone(w.calls)
	w.calls = nil
	return calls
}

func (w *world) owed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

func lazyPlan() *negotiate.Plan {
	plan := ordinaryPlan(reason.None, "")
	plan.Chosen = &negotiate.Candidate{
		Format: "overlaybd", Artifact: ocispec.Descriptor{Digest: digest.FromString("artifact")}, Found: negotiate.FoundReferrersAPI,
	}
	return plan
}

func ordinaryPlan(code reason.Code, detail string) *negotiate.Plan {
	return &negotiate.Plan{
		Image: negotiate.Image{
			Reference: ref, Manifest: ocispec.Descriptor{Digest: manifest}, Config: ocispec.Descriptor{Digest: config}, ChainIDs: chains,
		},
		Rejected: []negotiate.Rejection{{
			Artifact: ocispec.Descriptor{Digest: digest.FromString("nydus")}, Format: "nydus",
			Reason: reason.NotAttachable, Detail: "no reader for it here",
		}},
		Reason: code, Detail: detail,
	}
}

func limits() fallback.Options {
	return fallback.Options{
		NegotiateTimeout: 3 * time.Second, AttachTimeout: 10 * time.Second, NodeTimeout: 2 * time.Second,
		RecheckAfter: 5 * time.Minute, Failures: 3, OpenFor: 30 * time.Second,
	}
}

// node is a Guard in a world, with its journal and log.
type node struct {
	*world
	guard   *fallback.Guard
	journal *fallback.Journal
	log     *observer.ObservedLogs
}

func newNode(t *testing.T, w *world, options fallback.Options) *node {
	t.Helper()
	journal, err := fallback.OpenJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	core, log := observer.New(zap.InfoLevel)
	guard := fallback.New(w, w, journal, zap.New(core), options)
	t.Cleanup(func() { _ = guard.Close(context.Background()) }) // late looks end
	return &node{w, guard, journal, log}
}

// prepare is Guard.Prepare of a pull that is not refused.
func prepare(ctx context.Context, t *testing.T, guard *fallback.Guard, request *runtime.PullImageRequest) (settle func(error)) {
	t.Helper()
	_, settle, err := guard.Prepare(ctx, request)
	if err != nil {
		t.Errorf("refused: %v", err)
	}
	return settle
}

func request(image string) *runtime.PullImageRequest {
	return &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}, Auth: &runtime.AuthConfig{Username: "u", Password: "hunter2"}}
}

// pull is one whole pull whose forwarded part takes a second and ends with err.
func (n *node) pull(t *testing.T, image string, err error) fallback.Entry {
	t.Helper()
	settle := prepare(t.Context(), t, n.guard, request(image))
	time.Sleep(time.Second) // of a synctest bubble: no time passes
	settle(err)
	return n.last(t, image)
}

func (n *node) last(t *testing.T, image string) fallback.Entry {
	t.Helper()
	entry, err := n.journal.Last(image)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

func nopLog() *zap.Logger { return zap.NewNop() }
