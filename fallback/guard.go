package fallback

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/negotiate"
)

// Pull is a request as far as preparing it needs.
type Pull struct {
	Reference string              // normalised as containerd does: "docker.io/library/redis:7"
	Auth      *runtime.AuthConfig // nil if the request has none; a secret, never logged or kept
}

// Planner finds out what a reference names and which form of it to use.
type Planner interface {
	// Plan returns an error only where the image itself could not be resolved.
	// A plan without a chosen candidate says why in its Reason and Detail.
	Plan(ctx context.Context, pull Pull) (*negotiate.Plan, error)
}

// Node is this machine: containerd's images and snapshots, and our volumes.
//
// A nil release function stands for nothing to release.
type Node interface {
	// Present returns the chain IDs, bottom first, of the image that containerd
	// holds under this reference with its top chain unpacked or grafted; none if
	// it holds no such image.
	Present(ctx context.Context, reference string) ([]digest.Digest, error)
	// Shield readies the node for forwarding a pull of an image with these chains
	// that nothing was attached for. Until release is called no placeholder of
	// ours stands for a chain that the pull must unpack, and one stands for every
	// chain below a graft: containerd's unpacker asks for each chain, bottom up,
	// and fetches the layers of those it has collected since (containerd 2.4
	// core/unpack). No chains: the pull may concern every image.
	Shield(ctx context.Context, chains []digest.Digest) (release func(), err error)
	// Attach opens, mounts and grafts the plan's chosen candidate.
	Attach(ctx context.Context, pull Pull, plan *negotiate.Plan) (Attached, error)
	// Renew tells that a pull of a present image succeeded with credentials: if the
	// image is lazy, it is read with these from now on.
	Renew(ctx context.Context, pull Pull) error
	// Standings returns those of chains that are not unpacked but stand on a volume.
	Standings(ctx context.Context, chains []digest.Digest) ([]Standing, error)
	// Vouch notes durably that repository confirms what a volume holds.
	Vouch(ctx context.Context, volume, repository string) error
	// Target returns the digest that containerd's image record names, "" where it
	// has no such record.
	Target(ctx context.Context, reference string) (digest.Digest, error)
	// Originals returns the images that containerd may have unpacked under a
	// reference, with their layers, diff IDs and chain IDs: this platform's, or all
	// that it holds if there is none; nothing only where it has no such record.
	Originals(ctx context.Context, reference string) ([]*negotiate.Image, error)
	// Forget removes the records by which the reference's image is found, as long as
	// they name target.
	Forget(ctx context.Context, reference string, target digest.Digest) error
	// Materialise puts the verified content of the image's original layers, up to
	// chain, where that chain stood on a volume. It takes as long as ctx lasts.
	// After an error everything is as before.
	Materialise(ctx context.Context, pull Pull, image *negotiate.Image, chain digest.Digest) error
	// Removed tells that an image was removed. A hint; it must not block.
	Removed()
}

// Attached is a grafted image, and what it took. With an error from Attach the
// numbers tell how far it came, and Release is nil.
type Attached struct {
	Volume             string // its ID, which names content: also where another had attached it
	Fetched            int64  // bytes fetched from the registry on the way
	Requests           int64  // made for them
	Open, Mount, Graft time.Duration
	Release            func() // called once, after the forwarded pull
}

// Options are the limits of a Guard. All must be positive, except RecheckAfter.
type Options struct {
	Disabled         []string      // patterns of references, see [Patterns]
	NegotiateTimeout time.Duration // for Plan
	AttachTimeout    time.Duration // for Attach
	NodeTimeout      time.Duration // for Present, Shield and the releases, each
	RecheckAfter     time.Duration // how long a resolved reference is taken to mean the same; 0: ask every time
	Failures         int           // in a row, until a breaker opens
	OpenFor          time.Duration // until it lets one trial through

	// Rules returns the policy for a repository: whose signatures count when an
	// image stands on what another repository attached. nil: nobody's.
	Rules func(repository string) *negotiate.Rules
	// Settled is told of every pull once it has ended, also of those that found
	// their image in place. It must not block, keep the entry or change it. nil:
	// nobody is told.
	Settled func(*Entry)
	Now     func() time.Time // nil: time.Now
}

// Guard prepares pulls, one at a time or many at once. It implements what
// criimage wants to have prepared.
type Guard struct {
	planner    Planner
	node       Node
	journal    *Journal
	log        *zap.Logger
	limits     Options
	disabled   Patterns
	registries *breakers // by registry host
	forms      *breakers // by registry host and format
	steps      sync.WaitGroup
	closing    chan struct{} // closed by Close
	close      sync.Once
}

// New returns a Guard that starts nothing until the first pull.
func New(planner Planner, node Node, journal *Journal, log *zap.Logger, options Options) *Guard {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Rules == nil {
		options.Rules = func(string) *negotiate.Rules { return &negotiate.Rules{} }
	}
	if options.Settled == nil {
		options.Settled = func(*Entry) {}
	}
	g := &Guard{
		planner:    planner,
		node:       node,
		journal:    journal,
		log:        log,
		limits:     options,
		disabled:   CompilePatterns(options.Disabled),
		registries: newBreakers(options.Failures, options.OpenFor, options.Now),
		forms:      newBreakers(options.Failures, options.OpenFor, options.Now),
		closing:    make(chan struct{}),
	}
	g.forms.formats = true
	return g
}

// Prepare does what can be done before the pull is forwarded, within the
// limits. It fails only where the image would stand on what its repository does
// not confirm and its original layers cannot be had. confirm is to be called
// after each forwarded pull that succeeded, before that is told: its error is the
// pull's, and then the image is not there either. settle is to be called once,
// after the last forwarded pull has ended, with its error; it journals the pull.
func (g *Guard) Prepare(ctx context.Context, request *runtime.PullImageRequest) (confirm func(context.Context) error, settle func(err error), err error) {
	p := &passage{Guard: g, started: g.limits.Now()}
	ctx, span := tracing.Start(ctx, "prepare", tracing.KeyImage.String(request.GetImage().GetImage()))
	if panicked := p.guarded(func() error {
		err = p.prepare(ctx, request)
		return nil
	}); panicked != nil { // an ordinary pull, which confirm looks at as at any other
		p.entry.Outcome, p.entry.Reason, p.entry.Sentence = Ordinary, reason.Internal, panicked.Error()
	}
	p.forwarded = g.limits.Now()
	span.Set(tracing.KeyMode.String(string(p.entry.Outcome)), tracing.KeyReason.String(string(p.entry.Reason)), tracing.KeyFormat.String(p.entry.Format))
	span.End(err)
	p.entry.Steps.Prepare = seconds(p.forwarded.Sub(p.started))
	return p.confirm, p.settle, err
}

// ImageRemoved passes the hint on. It does not block.
func (g *Guard) ImageRemoved(string) { g.node.Removed() }

// Close waits for steps that outlived their limit, until ctx ends. Prepare must
// not be called any more.
func (g *Guard) Close(ctx context.Context) error {
	g.close.Do(func() { close(g.closing) })
	done := make(chan struct{})
	go func() { // ends with the last step; nobody waits for it where a step never ends
		g.steps.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
