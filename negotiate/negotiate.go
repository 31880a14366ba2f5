package negotiate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/tracing"
)

// DefaultDiscoveryTimeout bounds discovery, which runs inside a pull. Resolving
// the image itself is bounded by the caller's context alone.
const DefaultDiscoveryTimeout = 2 * time.Second

// Sizes of what is remembered between plans.
const (
	listCacheEntries   = 16384    // lines of referrer lists, some 200 bytes each
	supportCacheSize   = 4096     // verdicts
	artifactCacheBytes = 16 << 20 // manifests of artifacts
)

// Options configures a Negotiator.
type Options struct {
	Client      *registry.Client
	Recognisers []Recogniser // nil: Recognisers()
	Policy      Policy       // nil: the zero Rules for every repository
	// Attachable says why this node cannot attach a format, nil if it can. nil:
	// it can attach all of them.
	Attachable func(format string) error
	// VerifyImage is asked whether an image may be used at all, beside discovery;
	// an error keeps every form of it from being chosen. top is what the reference
	// names. nil: every image may be used.
	VerifyImage      func(ctx context.Context, reference string, top ocispec.Descriptor) error
	DiscoveryTimeout time.Duration    // 0: DefaultDiscoveryTimeout
	Log              *zap.Logger      // nil: silent
	Now              func() time.Time // nil: time.Now
}

// Negotiator makes plans. It is safe for concurrent use and remembers between
// plans what registries support and what was attached lately.
type Negotiator struct {
	client      *registry.Client
	recognisers []Recogniser
	policy      Policy
	attachable  func(format string) error
	verifyImage func(ctx context.Context, reference string, top ocispec.Descriptor) error
	timeout     time.Duration
	log         *zap.Logger

	lists     *lru[listKey, listing]
	support   supportBook
	artifacts *lru[artifactKey, []byte]

	background background
}

// New returns a Negotiator. Close it.
func New(opts Options) *Negotiator {
	if opts.Recognisers == nil {
		opts.Recognisers = Recognisers()
	}
	if opts.Policy == nil {
		opts.Policy = Uniform(Rules{})
	}
	if opts.Attachable == nil {
		opts.Attachable = func(string) error { return nil }
	}
	if opts.VerifyImage == nil {
		opts.VerifyImage = func(context.Context, string, ocispec.Descriptor) error { return nil }
	}
	if opts.DiscoveryTimeout == 0 {
		opts.DiscoveryTimeout = DefaultDiscoveryTimeout
	}
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Negotiator{
		client: opts.Client, recognisers: opts.Recognisers, policy: opts.Policy,
		attachable: opts.Attachable, verifyImage: opts.VerifyImage, timeout: opts.DiscoveryTimeout, log: opts.Log,
		lists:     newLRU[listKey, listing](listCacheEntries, opts.Now),
		support:   supportBook{newLRU[supportKey, verdict](supportCacheSize, opts.Now)},
		artifacts: newLRU[artifactKey, []byte](artifactCacheBytes, opts.Now),
	}
}

// Request is one image to plan for.
type Request struct {
	Reference   string               // any form that containerd takes
	Credentials registry.Credentials // zero: anonymous
	Platform    *ocispec.Platform    // nil: this node's
}

// Plan resolves the reference and decides which attached form to use.
//
// It fails only where the image itself cannot be resolved: bad reference,
// registry out of reach, no manifest for the platform, content that is not what
// its digest says. Whatever goes wrong in discovery gives a plan without Chosen,
// and the reason.
func (n *Negotiator) Plan(ctx context.Context, req Request) (*Plan, error) {
	ctx, span := tracing.Start(ctx, "negotiate")
	plan, _, err := n.plan(ctx, req)
	span.End(err)
	return plan, err
}

// plan also returns the judge, for who wants to know more.
func (n *Negotiator) plan(ctx context.Context, req Request) (*Plan, *judge, error) {
	named, tagOrDigest, err := parseReference(req.Reference)
	if err != nil {
		return nil, nil, err
	}
	repo, err := n.client.Repository(named.Name(), req.Credentials)
	if err != nil {
		return nil, nil, fmt.Errorf("open repository %s: %w", named.Name(), err)
	}
	wanted := platforms.DefaultSpec()
	if req.Platform != nil {
		wanted = platforms.Normalize(*req.Platform)
	}
	plan := &Plan{Image: Image{
		Reference: named.String(), Repository: named.Name(), Documents: map[digest.Digest][]byte{},
	}}
	plan.Rules = n.policy.Rules(plan.Image.Repository)
	j := &judge{n: n, repo: repo, rules: plan.Rules, wanted: wanted, match: platforms.Only(wanted)}
	j.finder = &finder{n: n, repo: repo, legacy: plan.Rules.LegacyORAS, log: n.log}
	r := &resolver{repo: repo, platform: j.match}
	if !plan.Rules.none() {
		r.expect = func(d digest.Digest) { j.early = j.finder.ahead(ctx, d, n.timeout) }
	}
	err = r.resolve(ctx, &plan.Image, tagOrDigest)
	if j.early != nil {
		defer j.early.stop()
	}
	if err != nil {
		return nil, nil, err
	}
	if err := n.complete(ctx, plan, j); err != nil {
		return nil, nil, err
	}
	return plan, j, nil
}

// complete loads the image's config while it looks for accelerated forms.
func (n *Negotiator) complete(ctx context.Context, plan *Plan, j *judge) error {
	// Both sides work at the same time, so discovery sees the image without what
	// comes out of the config.
	known := plan.Image
	known.Documents = nil
	j.img = &known
	var err error
	if j.original, err = plan.Image.original(j.wanted); err != nil {
		return err
	}

	g, gctx := errgroup.WithContext(ctx) // waited for below
	g.Go(func() error {
		return contain.Panic(n.log, "reading the image's config", func() error { return loadConfig(gctx, j.repo, &plan.Image) })
	})
	var found decision
	var denied error
	g.Go(func() error {
		denied = contain.Panic(n.log, "asking the image verifiers", func() error { return n.verifyImage(gctx, known.Reference, known.top()) })
		return nil
	})
	g.Go(func() error {
		dctx, cancel := context.WithTimeout(gctx, n.timeout)
		defer cancel()
		return contain.Panic(n.log, "choosing a form", func() error {
			found = n.decide(dctx, j)
			return nil
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	plan.Chosen, plan.Rejected, plan.Vouched = found.chosen, found.rejected, found.vouched
	plan.Reason, plan.Detail = found.reason, found.detail
	if denied != nil {
		plan.deny(denied)
	}
	n.log.Debug("image planned", zap.String("ref", plan.Image.Reference),
		zap.Bool("lazy", plan.Lazy()), zap.String("reason", string(plan.Reason)), zap.Int("rejected", len(plan.Rejected)))
	return nil
}

// decision is the outcome of discovery.
type decision struct {
	chosen   *Candidate
	vouched  []digest.Digest
	rejected []Rejection
	reason   reason.Code
	detail   string
}

// decide looks for forms in the image itself and among what is attached to the
// platform's manifest; if none of those will do, to the index.
func (n *Negotiator) decide(ctx context.Context, j *judge) decision {
	var d decision
	if err := j.worthwhile(); err != nil {
		d.reason, d.detail = reason.Of(err), err.Error()
		return d
	}
	subjects := []subject{{descriptor: j.img.Manifest}}
	if j.img.Index != nil {
		subjects = append(subjects, subject{descriptor: *j.img.Index, isIndex: true})
	}
	candidates, rejected := j.inPlace()
	d.rejected = rejected
	var problem error
	for _, s := range subjects {
		list := j.attached(ctx, s.descriptor.Digest)
		if problem == nil {
			problem = list.problem
		}
		found, rejected := j.consider(ctx, list, s)
		d.rejected = append(d.rejected, rejected...)
		if j.choose(ctx, &d, append(candidates, found...)); d.chosen != nil {
			return d
		}
		candidates = nil
	}
	d.explain(problem)
	return d
}

// explain states in one sentence why nothing was chosen. What befell a form that
// this node could have used tells more than what went wrong in a list, that more
// than forms that node or policy rule out, and these more than other artifacts.
func (d *decision) explain(problem error) {
	if r := d.firstBut(reason.NoMatch, reason.LowerRanked, reason.NotAttachable, reason.FormatNotAllowed); r != nil {
		d.blame(r)
		return
	}
	ruledOut := d.firstBut(reason.NoMatch, reason.LowerRanked)
	switch {
	case problem != nil:
		d.reason, d.detail = reason.Of(problem), problem.Error()
		if errors.Is(problem, context.DeadlineExceeded) {
			d.detail = "the registry did not say in time what is attached to the image"
		}
	case ruledOut != nil:
		d.blame(ruledOut)
	case len(d.rejected) > 0:
		d.reason, d.detail = reason.NoMatch, d.rejected[0].Detail
	default:
		d.reason, d.detail = reason.NoReferrers, "nothing is attached to the image"
	}
}

// firstBut returns the first rejection for another reason than these, nil if
// there is none.
func (d *decision) firstBut(codes ...reason.Code) *Rejection {
	i := slices.IndexFunc(d.rejected, func(r Rejection) bool { return !slices.Contains(codes, r.Reason) })
	if i < 0 {
		return nil
	}
	return &d.rejected[i]
}

func (d *decision) blame(r *Rejection) {
	what := "artifact "
	if r.Found == FoundInPlace {
		what = r.Format + " form "
	}
	d.reason, d.detail = r.Reason, fmt.Sprintf("%s%s: %s", what, r.Artifact.Digest, r.Detail)
}
