package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/negotiate"
)

// Standing says on whose word a chain stands that was not unpacked from its
// image's own layers.
type Standing struct {
	Chain  digest.Digest
	Volume string
	// Materialised: it holds the original content of all layers up to it, and stands
	// on nothing. Of the rest only Chain is set.
	Materialised bool
	Suspect      bool          // it was unpacked from its own layer, but over a volume that was replaced since
	Repository   string        // that attached the form; "": nobody knows
	Artifact     digest.Digest // the form's manifest
	Vouchers     []string      // further repositories that attach it to the image
	Signer       *negotiate.Signer
	Proof        *negotiate.Signature // the signature that says so
	Quarantined  bool                 // its registry served other bytes than its digests say
}

// confirmTimeout is how long containerd may take to tell what a pulled image
// stands on. Until that is known the pull cannot be called a success.
const confirmTimeout = 30 * time.Second

// confirm finds out whether the image that containerd now holds under the
// reference may be used by whoever asked for it: what it stands on was attached
// by its own repository, or is confirmed by that or by a signer it trusts.
// Otherwise its original layers take the place.
//
// It looks at what containerd has, not at what was planned: the reference may
// have moved, and another pull may have been faster.
func (p *passage) confirm(ctx context.Context) error {
	if p.named == nil {
		return nil // containerd took a reference that we cannot even parse: nothing of ours has that name
	}
	begin := p.limits.Now()
	defer func() {
		p.entryMu.Lock()
		defer p.entryMu.Unlock()
		p.entry.Steps.Confirm = max(p.entry.Steps.Confirm, seconds(p.limits.Now().Sub(begin)))
	}()
	pulled, err := p.pulled(ctx)
	for _, image := range pulled {
		if err == nil {
			err = p.vouch(ctx, image)
		}
	}
	if err == nil {
		p.entryMu.Lock()
		defer p.entryMu.Unlock()
		p.confirmed = true
		return nil
	}
	if ctx.Err() == nil { // else settle looks again, for everybody
		target, lookErr := p.brought(ctx)
		if target != "" {
			lookErr = p.forget(ctx, target, err)
		}
		err = errors.Join(err, lookErr)
	}
	return p.refusal(ctx, err)
}

// refusal is what a caller gets whose image cannot be proved safe.
func (p *passage) refusal(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	p.log.Error("pull refused: what the image stands on cannot be trusted or replaced",
		zap.String("ref", p.entry.Reference), zap.Error(err))
	return status.Errorf(codes.Unavailable, "referee: %s", err)
}

// vouch makes sure that what image stands on may serve its repository.
func (p *passage) vouch(ctx context.Context, image *negotiate.Image) error {
	for range len(image.ChainIDs) + 1 { // replacing one may make those above it suspect
		s, why := p.stands(ctx, image)
		if s == nil {
			return why
		}
		if err := p.materialise(ctx, image, s, why); err != nil {
			return err
		}
	}
	return reason.Errorf(reason.Unvouched, "the image's layers are replaced again and again")
}

// errUnknownStanding says that containerd did not tell what an image stands on.
var errUnknownStanding = errors.New("find out what the image stands on")

// stands returns the lowest of what image stands on that must not serve it, and
// why; nothing if there is none, an error alone where nobody knows.
func (p *passage) stands(ctx context.Context, image *negotiate.Image) (*Standing, error) {
	standings, err := step(ctx, p.Guard, "looking for grafts", confirmTimeout, func(ctx context.Context) ([]Standing, error) {
		return p.node.Standings(ctx, image.ChainIDs)
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnknownStanding, err)
	}
	return p.unfit(ctx, standings, image.ChainIDs)
}

// unfit returns the lowest of what an image with these chains stands on that must
// not serve it, and why; nil if there is none. A chain that stands on a volume has
// no parent, and neither has one that was materialised: nothing below the highest
// of them is looked at.
func (p *passage) unfit(ctx context.Context, standings []Standing, chains []digest.Digest) (*Standing, error) {
	var suspect *Standing // the lowest above the highest graft
	for _, chain := range slices.Backward(chains) {
		i := slices.IndexFunc(standings, func(s Standing) bool { return s.Chain == chain })
		if i < 0 {
			continue
		}
		s := &standings[i]
		if s.Materialised {
			break
		}
		if s.Suspect {
			suspect = s
			continue
		}
		if why := p.doubt(ctx, s); why != nil {
			return s, why
		}
		break
	}
	if suspect == nil {
		return nil, nil
	}
	return suspect, reason.Errorf(reason.Unvouched, "layer %s was unpacked over a form that was not to be trusted", suspect.Chain)
}

// doubt returns nil if s may serve the repository of this pull, else why not.
//
// Whoever confirms a form confirms digests. What is read of it lazily is only
// what its registry says has them, so no word counts for bytes of another
// registry.
func (p *passage) doubt(ctx context.Context, s *Standing) error {
	if s.Quarantined {
		return reason.Errorf(reason.Quarantined, "layer %s stands on a form of %s that turned out to be wrong", s.Chain, origin(s))
	}
	repository := reference.TrimNamed(p.named).Name()
	if registry.HostOf(s.Repository) != registry.HostOf(repository) {
		return reason.Errorf(reason.Unvouched, "layer %s is read from %s, which cannot speak for %s", s.Chain, origin(s), repository)
	}
	rules := p.limits.Rules(repository)
	known := s.Repository == repository || slices.Contains(s.Vouchers, repository)
	if known && !rules.RequireSignature {
		return nil
	}
	if p.attaches(s) {
		if known {
			return nil
		}
		// This repository attaches the same form: remember, for images built on it.
		_, err := step(ctx, p.Guard, "noting a voucher", p.limits.NodeTimeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, p.node.Vouch(ctx, s.Volume, repository)
		}, nil)
		if err != nil {
			p.warn("note that the repository confirms the volume", err)
		}
		return nil
	}
	err := rules.StillVouched(ctx, repository, s.Signer, s.Proof)
	if err == nil {
		return nil
	}
	if known { // its policy has become stricter since
		return reason.Errorf(reason.Unvouched, "layer %s stands on a form that %s may not use any more: %w", s.Chain, repository, err)
	}
	return reason.Errorf(reason.Unvouched, "layer %s stands on the word of %s, which %s does not confirm: %w", s.Chain, origin(s), repository, err)
}

// attaches tells whether the plan's image has s's form attached, or one with the
// same blobs, for all of its layers: a form speaks for no other chain.
func (p *passage) attaches(s *Standing) bool {
	if p.plan == nil || len(p.plan.Image.ChainIDs) == 0 || p.plan.Image.ChainIDs[len(p.plan.Image.ChainIDs)-1] != s.Chain {
		return false
	}
	return slices.Contains(p.plan.Vouched, s.Artifact) || p.entry.Volume != "" && p.entry.Volume == s.Volume
}

func origin(s *Standing) string {
	if s.Repository == "" {
		return "a repository that is not known any more"
	}
	return s.Repository
}

// materialise puts the original layers in the place of what s stands on. It
// takes as long as fetching them takes: an ordinary pull would do the same.
func (p *passage) materialise(ctx context.Context, image *negotiate.Image, s *Standing, why error) error {
	begin := p.limits.Now()
	p.log.Info("materialising a layer", zap.String("ref", p.entry.Reference), zap.Stringer("chain", s.Chain), zap.NamedError("why", why))
	err := p.guarded(func() error { return p.node.Materialise(ctx, p.pull, image, s.Chain) })
	p.entryMu.Lock()
	defer p.entryMu.Unlock()
	p.entry.Steps.Materialise += seconds(p.limits.Now().Sub(begin))
	if err != nil {
		return fmt.Errorf("%w; put its original layers in place: %w", why, err)
	}
	p.entry.Materialised = append(p.entry.Materialised, Materialised{s.Chain, why.Error()})
	return nil
}

// guarded runs what has no limit but its context; a panic is an error.
func (p *passage) guarded(run func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			p.log.Error("recovered from a panic in a step of a pull", zap.Any("panic", panicked), zap.Stack("stack"))
			err = errors.Join(err, reason.Errorf(reason.Internal, "panic: %v", panicked))
		}
	}()
	return run()
}
