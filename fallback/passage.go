package fallback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// passage is one pull on its way through a Guard. One goroutine at a time
// touches it, first Prepare's, then that of settle; between them those of confirm.
type passage struct {
	*Guard

	started   time.Time
	forwarded time.Time // when Prepare returned
	named     reference.Named
	pull      Pull
	previous  *Entry          // what the journal says of the reference's last pull
	plan      *negotiate.Plan // nil until negotiated
	chains    []digest.Digest // of the image, as far as known
	releases  []func()

	// confirm runs for several callers at once: what it writes into entry it
	// writes under entryMu, everything else only before and after that.
	entryMu   sync.Mutex
	entry     Entry
	confirmed bool // a caller was told of its success

	unconfirmed unconfirmed // the note of this pull
}

// prepare tries the lazy way, and readies the node for whichever way it came to.
// An error refuses the pull.
func (p *passage) prepare(ctx context.Context, request *runtime.PullImageRequest) error {
	err := p.attempt(ctx, request)
	code := codeOf(ctx, err)
	p.entry.Time = p.started
	p.entry.Outcome = Ordinary
	p.entry.Reason = code
	if err != nil {
		p.entry.Sentence = err.Error()
	}
	switch {
	case code == reason.None:
		p.entry.Outcome = Lazy
	case ctx.Err() != nil: // everybody left: nothing will be forwarded
		return nil
	default:
		p.shield(ctx)
		if p.plan != nil {
			// Before the pull can see it; confirm looks again at what came of it.
			if err := p.vouch(ctx, &p.plan.Image); err != nil && !errors.Is(err, errUnknownStanding) {
				return p.refusal(ctx, err)
			}
		}
	}
	p.note(ctx)
	return nil
}

// note makes durable that the pull is about to be forwarded. Where that cannot be
// the pull goes on: only the daemon's death within it would go unnoticed.
func (p *passage) note(ctx context.Context) {
	if p.named == nil {
		return // nothing of ours has a name that cannot be parsed
	}
	before, err := step(ctx, p.Guard, "looking at the image record", p.limits.NodeTimeout, func(ctx context.Context) (digest.Digest, error) {
		return p.node.Target(ctx, p.named.String())
	}, nil)
	if err == nil {
		p.unconfirmed, err = p.journal.openUnconfirmed(p.named.String(), before, p.started)
	}
	if err != nil {
		p.warn("note the pull", err)
	}
}

// attempt goes as far as it can and returns nil if the image was attached,
// else why it was not.
func (p *passage) attempt(ctx context.Context, request *runtime.PullImageRequest) error {
	if err := p.admit(request.GetImage().GetImage()); err != nil {
		return err
	}
	p.pull = Pull{Reference: p.entry.Reference, Auth: request.GetAuth()}
	if p.fresh() && p.present(ctx, p.named) {
		return reason.Errorf(reason.AlreadyPresent, "the image is here, unpacked, and its reference needs no new look")
	}
	host := reference.Domain(p.named)
	leave, err := p.registries.enter(host)
	if err != nil {
		return err
	}
	err = p.negotiate(ctx)
	code := codeOf(ctx, err)
	verdict := planning(code)
	switch {
	case p.presentAsPlanned(ctx):
		err = reason.Errorf(reason.AlreadyPresent, "the image the reference names is here, unpacked")
	case err == nil:
		verdict, code, err = p.use(ctx, host)
	}
	// One verdict a pull: a registry that answers questions and fails to serve
	// blobs would otherwise be cleared as often as it is blamed.
	leave(verdict, code)
	return err
}

// admit parses the reference as containerd does and asks whether we may touch it.
func (p *passage) admit(image string) error {
	p.entry.Reference = clip(image)
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return reason.Errorf(reason.BadRequest, "parse reference: %w", err)
	}
	p.named = named
	p.entry.Reference = named.String()
	previous, err := p.journal.at(p.entry.Reference)
	switch {
	case err == nil:
		p.previous = &previous
	case !errors.Is(err, ErrNoEntry):
		p.log.Warn("skipping a journal entry that cannot be read", zap.String("ref", p.entry.Reference), zap.Error(err))
	}
	if pattern, found := p.disabled.Match(named); found {
		return reason.Errorf(reason.Disabled, "the configuration disables %q", pattern)
	}
	return nil
}

// fresh tells whether the reference can be taken to mean what it meant last
// time. After a pull that failed it cannot: the image may have moved.
func (p *passage) fresh() bool {
	if p.previous != nil && p.previous.Forward != nil && p.previous.Forward.Error != "" {
		return false
	}
	if _, pinned := p.named.(reference.Digested); pinned {
		return true
	}
	if p.previous == nil {
		return false
	}
	age := p.started.Sub(p.previous.Resolved)
	return age >= 0 && age < p.limits.RecheckAfter
}

// negotiate asks the planner. An error says why nothing is to be attached.
func (p *passage) negotiate(ctx context.Context) error {
	begin := p.limits.Now()
	plan, err := step(ctx, p.Guard, "negotiation", p.limits.NegotiateTimeout, func(ctx context.Context) (*negotiate.Plan, error) {
		return p.planner.Plan(ctx, p.pull)
	}, nil)
	p.entry.Steps.Negotiate = seconds(p.limits.Now().Sub(begin))
	if err != nil {
		return err
	}
	if plan == nil {
		return reason.Errorf(reason.Internal, "negotiation returned no plan")
	}
	p.plan, p.chains = plan, plan.Image.ChainIDs
	p.entry.describe(plan)
	p.entry.Resolved = p.limits.Now()
	if plan.Chosen != nil {
		return nil
	}
	code, detail := plan.Reason, plan.Detail
	if code == reason.None {
		code = reason.NoMatch
	}
	return reason.Wrap(code, errors.New(detail))
}

// use attaches the chosen candidate. It returns what that says about the
// registry, and the code it says it with.
func (p *passage) use(ctx context.Context, host string) (verdict, reason.Code, error) {
	leave, err := p.forms.enter(p.plan.Chosen.Format + " from " + host)
	if err != nil {
		return healthy, reason.None, err
	}
	err = p.attach(ctx)
	code := codeOf(ctx, err)
	registry, form := attaching(code)
	leave(form, code)
	return registry, code, err
}

// presentAsPlanned asks for what the reference was just resolved to, whether or
// not a form of it was found. containerd keeps a record of it under the digest
// that the registry named.
func (p *passage) presentAsPlanned(ctx context.Context) bool {
	if p.plan == nil {
		return false
	}
	top := p.plan.Image.Manifest.Digest
	if p.plan.Image.Index != nil {
		top = p.plan.Image.Index.Digest
	}
	exact, err := reference.WithDigest(reference.TrimNamed(p.named), top)
	return err == nil && p.present(ctx, exact)
}

// present asks whether the image is here, and keeps its chains if so.
func (p *passage) present(ctx context.Context, named reference.Named) bool {
	begin := p.limits.Now()
	chains, err := step(ctx, p.Guard, "looking for the image", p.limits.NodeTimeout, func(ctx context.Context) ([]digest.Digest, error) {
		return p.node.Present(ctx, named.String())
	}, nil)
	p.entry.Steps.Present += seconds(p.limits.Now().Sub(begin))
	if err != nil {
		p.warn("look for the image in containerd", err)
		return false
	}
	if len(chains) > 0 {
		p.chains = chains
	}
	return len(chains) > 0
}

func (p *passage) attach(ctx context.Context) error {
	attached, err := step(ctx, p.Guard, "attaching", p.limits.AttachTimeout, func(ctx context.Context) (Attached, error) {
		return p.node.Attach(ctx, p.pull, p.plan)
	}, func(late Attached) { release(late.Release) })
	p.entry.Volume = attached.Volume
	p.entry.Fetched, p.entry.Requests = attached.Fetched, attached.Requests
	p.entry.Steps.Open = seconds(attached.Open)
	p.entry.Steps.Mount = seconds(attached.Mount)
	p.entry.Steps.Graft = seconds(attached.Graft)
	p.releases = append(p.releases, attached.Release)
	return err
}

// shield readies the node for a pull for which nothing was attached. If that
// does not work the pull goes on: a placeholder in its way fails it visibly, and
// the kubelet tries again.
func (p *passage) shield(ctx context.Context) {
	begin := p.limits.Now()
	undo, err := step(ctx, p.Guard, "shielding", p.limits.NodeTimeout, func(ctx context.Context) (func(), error) {
		return p.node.Shield(ctx, p.chains)
	}, release)
	p.entry.Steps.Shield = seconds(p.limits.Now().Sub(begin))
	p.releases = append(p.releases, undo)
	if err != nil {
		p.warn("shield the pull", err)
	}
}

// warn keeps what went wrong on the side, for the journal.
func (p *passage) warn(doing string, err error) {
	p.entryMu.Lock()
	defer p.entryMu.Unlock()
	p.entry.Warnings = append(p.entry.Warnings, fmt.Sprintf("%s: %s", doing, err))
}

// settle lets go of the node, in reverse order, and writes down how it went.
func (p *passage) settle(pullErr error) {
	now := p.limits.Now()
	p.entry.Steps.Forward = seconds(now.Sub(p.forwarded))
	p.entry.Forward = &Forward{}
	if pullErr != nil {
		p.entry.Forward.Error = pullErr.Error()
	}
	// The context of the pull has ended by now; what is left to do has its own limit.
	_, err := step(context.Background(), p.Guard, "releasing", p.limits.NodeTimeout, func(context.Context) (struct{}, error) {
		for i := len(p.releases) - 1; i >= 0; i-- {
			release(p.releases[i])
		}
		return struct{}{}, nil
	}, nil)
	if err != nil {
		p.warn("let go of the node", err)
	}
	p.finish(p.confirmed, pullErr)
	if pullErr == nil && p.entry.Reason == reason.AlreadyPresent && p.pull.Auth != nil {
		p.renew()
	}
	p.tell(pullErr)
	p.limits.Settled(&p.entry)
	if err := p.journal.Record(p.settled()); err != nil {
		p.log.Warn("a decision is missing from the journal", zap.String("ref", p.entry.Reference), zap.Error(err))
	}
}

// renew lets the image be read with credentials that have just proved good:
// those it was attached with may have expired, or gone with a former process.
func (p *passage) renew() {
	_, err := step(context.Background(), p.Guard, "renewing credentials", p.limits.NodeTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, p.node.Renew(ctx, p.pull)
	}, nil)
	if err != nil {
		p.warn("renew credentials", err)
	}
}

// settled is the entry to keep. A pull that found its image in place does not
// replace the decision that brought it there.
func (p *passage) settled() Entry {
	if p.entry.Reason != reason.AlreadyPresent || p.previous == nil {
		return p.entry
	}
	if p.plan != nil && p.plan.Image.Manifest.Digest != p.previous.Manifest {
		return p.entry
	}
	kept := *p.previous
	kept.Repeated++
	kept.RepeatedAt = &p.entry.Time
	if p.plan != nil {
		kept.Resolved = p.entry.Resolved
	}
	kept.Forward = p.entry.Forward
	if len(p.entry.Materialised) > 0 { // what it stood on may serve no longer
		kept.Materialised, kept.Steps.Materialise = p.entry.Materialised, p.entry.Steps.Materialise
	}
	if len(p.entry.Warnings) > 0 {
		kept.Warnings = p.entry.Warnings
	}
	return kept
}

// tell writes the one line of this pull.
func (p *passage) tell(err error) {
	p.log.Info("pull",
		zap.String("ref", p.entry.Reference),
		zap.String("outcome", string(p.entry.Outcome)),
		zap.String("reason", string(p.entry.Reason)),
		zap.String("why", p.entry.Sentence),
		zap.String("format", p.entry.Format),
		zap.Stringer("digest", p.entry.Manifest),
		zap.Duration("prepared", p.forwarded.Sub(p.started)),
		zap.Duration("forwarded", p.entry.Steps.Forward.Duration()),
		zap.Int64("fetched", p.entry.Fetched),
		zap.Strings("warnings", p.entry.Warnings),
		zap.Error(err))
}

// codeOf is reason.Of, except that whatever failed after the caller had gone
// failed because of that.
func codeOf(ctx context.Context, err error) reason.Code {
	if err != nil && ctx.Err() != nil {
		return reason.Cancelled
	}
	return reason.Of(err)
}
