package conversion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/lazyblock/convert/ztoc"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Media types and annotations of SOCI (soci-snapshotter 0.16).
const (
	sociIndexV1 = "application/vnd.amazon.soci.index.v1+json"
	sociIndexV2 = "application/vnd.amazon.soci.index.v2+json"
	sociTable   = "application/octet-stream"

	annotationSOCITool      = "com.amazon.soci.build-tool-identifier" // on the SOCI index
	annotationSOCILayer     = "com.amazon.soci.image-layer-digest"    // on a table
	annotationSOCILayerType = "com.amazon.soci.image-layer-mediaType" // on a table
	annotationSOCISpanSize  = "com.amazon.soci.span-size"             // on a table
	annotationSOCIIndex     = "com.amazon.soci.index-digest"          // on an image's manifest
	annotationSOCIManifest  = "com.amazon.soci.image-manifest-digest" // on the SOCI index's entry
)

// Defaults of SOCI's own tools, in bytes.
const (
	DefaultSpanSize     = 4 << 20
	DefaultMinLayerSize = 10 << 20
)

// maxPlainLayer bounds an uncompressed layer, in bytes.
const maxPlainLayer = 1 << 40

// SOCI makes tables of contents over the image's own layers, which are attached.
type SOCI struct {
	SpanSize     int64 // bytes of plain data that one read inflates, at least; 0: DefaultSpanSize
	MinLayerSize int64 // smaller layers get no table
}

var _ Target = SOCI{}

// Name is "soci".
func (SOCI) Name() string { return "soci" }

// Keeps is empty: the image stays as it is.
func (SOCI) Keeps() string { return "" }

// Make indexes the layers.
func (s SOCI) Make(ctx context.Context, original *source.Image, work Work) (Form, error) {
	index, blobs, err := s.index(ctx, original, sociIndexV1, work)
	if err != nil {
		return nil, err
	}
	subject := plain(original.Descriptor)
	index.Subject = &subject
	return artifact{manifest: index, blobs: blobs, asIs: true}, nil
}

// Unite does nothing: SOCI knows indexes of single images only.
func (SOCI) Unite(context.Context, *remote.Repository, ocispec.Descriptor, []Made, publish.Options) (*ocispec.Descriptor, error) {
	return nil, nil
}

// index makes the tables and the SOCI index, which is an image manifest, and returns
// the contents of all that it names.
func (s SOCI) index(ctx context.Context, original *source.Image, configType string, work Work) (ocispec.Manifest, []publish.Blob, error) {
	if s.SpanSize == 0 {
		s.SpanSize = DefaultSpanSize
	}
	empty := []byte("{}")
	index := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: configType, Digest: digest.FromBytes(empty), Size: int64(len(empty))},
		Annotations: map[string]string{annotationSOCITool: ztoc.BuildTool},
	}
	blobs := []publish.Blob{publish.BytesBlob(index.Config, empty)}
	for i, layer := range original.Manifest.Layers {
		if layer.Size < s.MinLayerSize {
			continue
		}
		table, err := ztoc.Layer(ctx, original, i, ztoc.Options{WorkDir: work.Dir, SpanSize: s.SpanSize, MaxSize: maxPlainLayer, Progress: work.Progress})
		if errors.Is(err, ztoc.ErrNotIndexed) {
			work.Remark(fmt.Sprintf("layer %d of %d, %s, gets no table: %v", i+1, len(original.DiffIDs), layer.Digest, err))
			continue
		}
		if err != nil {
			return index, nil, fmt.Errorf("index layer %d of %d, %s: %w", i+1, len(original.DiffIDs), layer.Digest, err)
		}
		d := ocispec.Descriptor{MediaType: sociTable, Digest: digest.FromBytes(table), Size: int64(len(table)), Annotations: map[string]string{
			annotationSOCILayer: layer.Digest.String(), annotationSOCILayerType: layer.MediaType, annotationSOCISpanSize: strconv.FormatInt(s.SpanSize, 10),
		}}
		path := filepath.Join(work.Dir, d.Digest.Encoded())
		if err := os.WriteFile(path, table, 0o600); err != nil {
			return index, nil, err
		}
		index.Layers = append(index.Layers, d)
		blobs = append(blobs, publish.FileBlob(d, path))
	}
	if len(index.Layers) == 0 {
		return index, nil, fmt.Errorf("no layer can be indexed that has at least %d bytes: there would be no table", s.MinLayerSize)
	}
	return index, blobs, nil
}

// SOCIv2 makes an image of the same layers that names its SOCI index, and an index of
// both.
type SOCIv2 struct{ SOCI }

var _ Target = SOCIv2{}

// Name is "soci-v2".
func (SOCIv2) Name() string { return "soci-v2" }

// Keeps says that only manifests are new.
func (SOCIv2) Keeps() string {
	return "image ID, config, layers and diff IDs; the digest is new, and the reference names an index"
}

// Make indexes the layers.
func (s SOCIv2) Make(ctx context.Context, original *source.Image, work Work) (Form, error) {
	index, blobs, err := s.index(ctx, original, sociIndexV2, work)
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(index)
	if err != nil {
		return nil, fmt.Errorf("encode SOCI index: %w", err)
	}
	made := sociImage{platform: original.Platform, tables: index, tableBlobs: blobs}
	if original.Descriptor.Platform != nil {
		made.platform = *original.Descriptor.Platform
	}
	manifest := original.Manifest
	manifest.Subject = nil
	manifest.Config.MediaType = ocispec.MediaTypeImageConfig // of a Docker image another name for the same
	manifest.Annotations = maps.Clone(manifest.Annotations)
	if manifest.Annotations == nil {
		manifest.Annotations = map[string]string{}
	}
	manifest.Annotations[annotationSOCIIndex] = digest.FromBytes(encoded).String()
	made.image = image{manifest: manifest}
	for _, d := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		made.blobs = append(made.blobs, publish.Blob{Descriptor: d, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return original.Fetch(ctx, d)
		}})
	}
	return &made, nil
}

// Unite pushes the index of the images and, behind all of them, of their SOCI
// indexes: clients that do not know SOCI take the first entry that fits.
func (SOCIv2) Unite(ctx context.Context, repo *remote.Repository, _ ocispec.Descriptor, made []Made, opts publish.Options) (*ocispec.Descriptor, error) {
	var images, indexes []ocispec.Descriptor
	for _, m := range made {
		form, ok := m.Form.(*sociImage)
		if !ok {
			return nil, fmt.Errorf("form of another kind: %T", m.Form)
		}
		d := plain(m.Artifact)
		d.Platform, d.Annotations = &form.platform, form.manifest.Annotations
		images = append(images, d)
		d = plain(form.index)
		d.Platform, d.ArtifactType = &form.platform, sociIndexV2
		d.Annotations = map[string]string{annotationSOCIManifest: m.Artifact.Digest.String()}
		indexes = append(indexes, d)
	}
	return pushIndex(ctx, repo, append(images, indexes...), opts)
}

// sociImage is the new image and its SOCI index.
type sociImage struct {
	image

	platform   ocispec.Platform
	tables     ocispec.Manifest
	tableBlobs []publish.Blob
	index      ocispec.Descriptor // of tables, once it was pushed
}

// Layers are the tables: the image's layers are not new.
func (s *sociImage) Layers() []ocispec.Descriptor { return s.tables.Layers }

// Push pushes the SOCI index before the image that names it.
func (s *sociImage) Push(ctx context.Context, repo *remote.Repository, opts publish.Options) (d ocispec.Descriptor, err error) {
	if s.index, err = publish.PushImage(ctx, repo, s.tables, s.tableBlobs, opts); err != nil {
		return d, fmt.Errorf("push SOCI index: %w", err)
	}
	return s.image.Push(ctx, repo, opts)
}
