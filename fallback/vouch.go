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
	"github.com/referee-cri/referee/negotiate"
)

// Standing says on whose word a chain stands that was not unpacked from its
// image's own layers.
type Standing struct {
	Chain      digest.Digest
	Volume     string
	Repository string        // that attached the form; "": nobody knows
	Artifact   digest.Digest // the form's manifest
	Vouchers   []string      // further repositories that attach it to the image
	Signer     *negotiate.Signer
	Proof      *negotiate.Signature // the signature that says so
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
	image, err := step(ctx, p.Guard, "looking at the pulled image", confirmTimeout, func(ctx context.Context) (*negotiate.Image, error) {
		return p.node.Original(ctx, p.named.String())
	}, nil)
	if err == nil && image != nil {
		err = p.vouch(ctx, image)
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

// vouch makes sure that everything image stands on may serve its repository.
func (p *passage) vouch(ctx context.Context, image *negotiate.Image) error {
	standings, err := step(ctx, p.Guard, "looking for grafts", confirmTimeout, func(ctx context.Context) ([]Standing, error) {
		return p.node.Standings(ctx, image.ChainIDs)
	}, nil)
	if err != nil {
		return fmt.Errorf("find out what the image stands on: %w", err)
	}
	for _, s := range standings {
		why := p.doubt(ctx, s)
		if why == nil {
			continue
		}
		if err := p.materialise(ctx, image, s, why); err != nil {
			return err
		}
	}
	return nil
}

// doubt returns nil if s may serve the repository of this pull, else why not.
func (p *passage) doubt(ctx context.Context, s Standing) error {
	repository := reference.TrimNamed(p.named).Name()
	if s.Repository == repository || slices.Contains(s.Vouchers, repository) {
		return nil
	}
	if p.plan != nil && slices.Contains(p.plan.Vouched, s.Artifact) {
		// This repository attaches the same form: remember, for images built on it.
		_, err := step(ctx, p.Guard, "noting a voucher", p.limits.NodeTimeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, p.node.Vouch(ctx, s.Volume, repository)
		}, nil)
		if err != nil {
			p.warn("note that the repository confirms the volume", err)
		}
		return nil
	}
	err := p.limits.Rules(repository).StillVouched(ctx, repository, s.Signer, s.Proof)
	if err == nil {
		return nil
	}
	from := s.Repository
	if from == "" {
		from = "a repository that is not known any more"
	}
	return reason.Errorf(reason.Unvouched, "layer %s stands on the word of %s, which %s does not confirm: %w", s.Chain, from, repository, err)
}

// materialise puts the original layers in the place of what s stands on. It
// takes as long as fetching them takes: an ordinary pull would do the same.
func (p *passage) materialise(ctx context.Context, image *negotiate.Image, s Standing, why error) error {
	begin := p.limits.Now()
	p.log.Info("materialising a layer", zap.String("ref", p.entry.Reference), zap.Stringer("chain", s.Chain), zap.NamedError("why", why))
	err := p.guarded(func() error { return p.node.Materialise(ctx, p.pull, image, s.Chain) })
	p.entryMu.Lock()
	defer p.entryMu.Unlock()
	p.entry.Steps.Materialise += seconds(p.limits.Now().Sub(begin))
	if err != nil {
		return fmt.Errorf("%w; put its original layers in place: %w", why, err)
	}
	p.entry.Materialised = append(p.entry.Materialised, s.Chain)
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
