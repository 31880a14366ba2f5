package host

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/lazyblock/materialise"
)

// Original is an image as its registry serves it to everyone.
type Original struct {
	Repository string               // "host/path"
	Layers     []ocispec.Descriptor // bottom first
	DiffIDs    []digest.Digest      // one a layer
}

// Materialise puts the verified content of the image's original layers under
// chain, one of the image's chain IDs, in place of the graft; of a suspect it mends
// what it has from there, for which the chains below must have been seen to. It takes as long as
// fetching and unpacking them does, or until ctx ends. Of several calls for one
// chain the later wait for the earlier; where there is plain content already
// nothing is fetched. progress may be nil. After an error the graft is as before.
func (h *Host) Materialise(ctx context.Context, chain digest.Digest, image Original, creds registry.Credentials, progress func(materialise.Progress)) (err error) {
	layers, err := image.below(chain)
	if err != nil {
		return fmt.Errorf("materialise %s: %w", chain, err)
	}
	if h.registry == nil {
		return reason.Errorf(reason.Internal, "materialise %s: no registry client", chain)
	}
	repository, err := h.registry.Repository(image.Repository, creds)
	if err != nil {
		return fmt.Errorf("materialise %s: %w", chain, err)
	}
	ctx, span := tracing.Start(ctx, "materialise")
	defer func() { span.End(err) }()
	begin, fetched := time.Now(), int64(0)
	opts := materialise.Options{Log: h.log, Progress: func(p materialise.Progress) {
		fetched = p.Fetched
		if progress != nil {
			progress(p)
		}
	}}
	err = h.grafter.Replace(ctx, chain, func(ctx context.Context, dir string) error {
		return materialise.Layers(ctx, dir, layers, repository, opts)
	})
	if err == nil {
		err = h.grafter.Clear(ctx, chain, func(ctx context.Context, layer graft.Layer) error {
			return materialise.Directories(ctx, materialise.Unpacked(layer), layers[len(layers)-1], repository, opts)
		})
	}
	count(err, &h.materialised, &h.materialiseFailures)
	if err != nil {
		return fmt.Errorf("materialise %s: %w", chain, err)
	}
	h.log.Info("chain materialised", zap.Stringer("chain", chain), zap.String("repository", image.Repository),
		zap.Int64("fetched", fetched), zap.Duration("took", time.Since(begin)))
	h.look() // the volume may be of no more use
	return nil
}

// ChainIDs are those of the image's layers, bottom first.
func (o Original) ChainIDs() []digest.Digest { return identity.ChainIDs(slices.Clone(o.DiffIDs)) }

// below returns the image's layers up to chain. That their diff IDs are those of
// chain is what makes their content chain's.
func (o Original) below(chain digest.Digest) ([]materialise.Layer, error) {
	if len(o.Layers) != len(o.DiffIDs) {
		return nil, reason.Errorf(reason.LayerMismatch, "image has %d layers and %d diff IDs", len(o.Layers), len(o.DiffIDs))
	}
	at := slices.Index(o.ChainIDs(), chain)
	if at < 0 {
		return nil, reason.Errorf(reason.LayerMismatch, "image has no such chain")
	}
	layers := make([]materialise.Layer, at+1)
	for i := range layers {
		layers[i] = materialise.Layer{Descriptor: o.Layers[i], DiffID: o.DiffIDs[i]}
	}
	return layers, nil
}
