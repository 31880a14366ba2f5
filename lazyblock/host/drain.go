package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/materialise"
)

// Leftover is a chain whose content is not all unpacked from its image's layers.
type Leftover struct {
	Chain   digest.Digest
	Volume  string
	Suspect bool // it was unpacked, but over a volume that was replaced since
	// References are the images that stand on it. Without any no container can be
	// created on it, and it goes with those that run.
	References []string

	depth  int         // how many layers are below it, at most
	images []*Original // of References
}

// DrainStep tells how far a Drain is.
type DrainStep struct {
	Leftover

	Fetched int64 // bytes, so far
	Done    bool
	Err     error // of what is done
}

// Leftovers lists what images and containers of this node stand on that is not
// plain files, the lowest first.
func (h *Host) Leftovers(ctx context.Context) ([]Leftover, error) {
	grafts, suspects, _, err := h.grafter.Standing(ctx)
	if err != nil {
		return nil, err
	}
	var all []*Leftover
	for _, graft := range grafts {
		all = append(all, &Leftover{Chain: graft.Chain, Volume: graft.Volume})
	}
	for _, suspect := range suspects {
		all = append(all, &Leftover{Chain: suspect.Chain, Volume: suspect.Volume, Suspect: true})
	}
	if len(all) == 0 {
		return nil, nil
	}
	if err := h.attribute(ctx, all); err != nil {
		return nil, err
	}
	leftovers := make([]Leftover, len(all))
	for i, l := range all {
		slices.Sort(l.References)
		leftovers[i] = *l
	}
	slices.SortFunc(leftovers, func(a, b Leftover) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), strings.Compare(string(a.Chain), string(b.Chain)))
	})
	return leftovers, nil
}

// attribute finds the images that stand on the chains.
func (h *Host) attribute(ctx context.Context, all []*Leftover) error {
	response, err := h.images.List(namespaces.WithNamespace(ctx, h.namespace), &imagesapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", errgrpc.ToNative(err))
	}
	for _, image := range response.GetImages() {
		ref := image.GetName()
		if digest.Digest(ref).Validate() == nil {
			continue // containerd's CRI names an image by its ID, too
		}
		originals, err := h.Originals(ctx, ref)
		if err != nil { // nothing can be created from it, nor fetched for it
			h.log.Debug("image not read", zap.String("ref", ref), zap.Error(err))
			continue
		}
		for _, original := range originals {
			chains := original.ChainIDs()
			for _, l := range all {
				if at := slices.Index(chains, l.Chain); at >= 0 {
					l.depth = max(l.depth, at)
					l.References, l.images = append(l.References, ref), append(l.images, original)
				}
			}
		}
	}
	return nil
}

// Drain puts the original layers in the place of every leftover that an image
// stands on, or one of references does if any are given; the lowest first. Where
// one fails the others go on. It returns what is left, and fails only where that
// cannot be told.
func (h *Host) Drain(ctx context.Context, references []string, tell func(DrainStep)) ([]Leftover, error) {
	tried := make(map[digest.Digest]bool)
	for {
		left, err := h.Leftovers(ctx)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(left, func(l Leftover) bool {
			return !tried[l.Chain] && l.Serves(references) && (!l.Suspect || l.isLowest(left))
		})
		if at < 0 || ctx.Err() != nil {
			return left, ctx.Err()
		}
		tried[left[at].Chain] = true
		h.drain(ctx, left[at], tell)
	}
}

// drain tries the original layers of each image that has the chain.
func (h *Host) drain(ctx context.Context, l Leftover, tell func(DrainStep)) {
	step := DrainStep{Leftover: l}
	tell(step)
	var errs []error
	for _, image := range l.images {
		err := h.Materialise(ctx, l.Chain, *image, registry.Credentials{}, func(p materialise.Progress) {
			step.Fetched = p.Fetched
			tell(step)
		})
		if err == nil {
			errs = nil
			break
		}
		errs = append(errs, err)
	}
	step.Done, step.Err = true, errors.Join(errs...)
	tell(step)
}

// Serves tells whether an image stands on it, one of references if there are any.
func (l *Leftover) Serves(references []string) bool {
	if len(references) == 0 {
		return len(l.References) > 0
	}
	return slices.ContainsFunc(references, func(ref string) bool { return slices.Contains(l.References, ref) })
}

// isLowest tells whether no other one is below it.
func (l *Leftover) isLowest(all []Leftover) bool {
	for _, image := range l.images {
		chains := image.ChainIDs()
		below := chains[:max(slices.Index(chains, l.Chain), 0)]
		if slices.ContainsFunc(all, func(other Leftover) bool { return slices.Contains(below, other.Chain) }) {
			return false
		}
	}
	return true
}

// Wanted returns the IDs of the volumes that images or running containers read.
func (h *Host) Wanted(ctx context.Context) ([]string, error) { return h.grafter.Wanted(ctx) }
