package negotiate

import (
	"context"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

const (
	// tablesSuffix follows the tag of an eStargz image in that of the image with its
	// tables (stargz-snapshotter, docs/external-toc.md).
	tablesSuffix = "-esgztoc"
	// annotationTableOf is on each layer of that image: the digest of the layer whose
	// table it is.
	annotationTableOf = "containerd.io/snapshot/stargz/layer.digest"
)

// ExternalTables finds the tables of contents of p's image where they are in
// another image of the repository, one for each layer, in the layers' order.
//
// Nothing in an image tells that, only the last bytes of its layers do. So that
// ordinary eStargz images cost no request, nobody looks here before a reader has
// missed the tables. Only a tag leads to them: an image that was asked for by
// digest has none. They need no trust of their own: their digests are in the image.
func (n *Negotiator) ExternalTables(ctx context.Context, p *Plan, creds registry.Credentials) ([]ocispec.Descriptor, error) {
	named, err := reference.ParseNormalizedNamed(p.Image.Reference)
	if err != nil {
		return nil, reason.Errorf(reason.BadRequest, "parse reference %q: %w", p.Image.Reference, err)
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return nil, reason.Errorf(reason.NotFound, "the tables of %s are in an image that only a tag leads to", p.Image.Reference)
	}
	repo, err := n.client.Repository(named.Name(), creds)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", named.Name(), err)
	}
	tables := Image{Reference: named.Name() + ":" + tagged.Tag() + tablesSuffix, Documents: map[digest.Digest][]byte{}}
	r := &resolver{repo: repo, platform: platforms.Only(p.Image.Platform)}
	if err := r.resolve(ctx, &tables, tagged.Tag()+tablesSuffix); err != nil {
		return nil, err
	}
	return matchTables(p.Image.Layers, tables)
}

// matchTables returns the table of each layer.
func matchTables(layers []ocispec.Descriptor, tables Image) ([]ocispec.Descriptor, error) {
	byLayer := make(map[string]ocispec.Descriptor, len(tables.Layers))
	for _, table := range tables.Layers {
		byLayer[table.Annotations[annotationTableOf]] = table
	}
	matched := make([]ocispec.Descriptor, len(layers))
	for i, layer := range layers {
		table, found := byLayer[layer.Digest.String()]
		if !found {
			return nil, reason.Errorf(reason.ArtifactInvalid, "%s has no table of layer %d, %s", tables.Reference, i, layer.Digest)
		}
		matched[i] = table
	}
	return matched, nil
}
