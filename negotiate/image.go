package negotiate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// maxIndexFetches bounds the manifests fetched while walking indexes, and so
// their depth as well.
const maxIndexFetches = 6

// annotationDockerReference marks what BuildKit puts into an index beside images
// ("attestation-manifest").
const annotationDockerReference = "vnd.docker.reference.type"

// parseReference normalises a reference as containerd's CRI does: a digest
// replaces the tag, no tag means "latest".
func parseReference(ref string) (named reference.Named, tagOrDigest string, err error) {
	named, err = reference.ParseDockerRef(ref)
	if err != nil {
		return nil, "", reason.Errorf(reason.BadRequest, "parse reference %q: %w", ref, err)
	}
	switch r := named.(type) {
	case reference.Digested:
		return named, r.Digest().String(), nil
	case reference.Tagged:
		return named, r.Tag(), nil
	default:
		return nil, "", reason.Errorf(reason.BadRequest, "reference %q names no tag or digest", ref)
	}
}

// resolver finds the manifest that a reference means on one platform.
type resolver struct {
	repo     *registry.Repository
	platform platforms.MatchComparer
	fetched  int
	// expect, if set, is told which manifest will probably be the one, before it
	// is fetched.
	expect func(digest.Digest)
}

// resolve fills img up to its layers. The index, if any, and the manifest are
// among its documents afterwards.
func (r *resolver) resolve(ctx context.Context, img *Image, tagOrDigest string) error {
	top, content, err := r.fetchTop(ctx, tagOrDigest)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", img.Reference, err)
	}
	img.Documents[top.Descriptor.Digest] = content
	manifest := top
	if isIndex(top.Descriptor.MediaType) {
		img.Index = &top.Descriptor
		if manifest, err = r.choose(ctx, top, img.Documents); err != nil {
			return fmt.Errorf("choose platform of %s: %w", img.Reference, err)
		}
	}
	if !isImage(manifest.Descriptor.MediaType) {
		return reason.Errorf(reason.RegistryError, "%s is a %s, not an image", img.Reference, manifest.Descriptor.MediaType)
	}
	img.Manifest, img.Config, img.Layers = manifest.Descriptor, *manifest.Config, manifest.Files
	return nil
}

// original decodes the image's own documents again.
func (img *Image) original(platform ocispec.Platform) (o Original, err error) {
	o.Platform = platform
	if o.Manifest, err = DecodeManifest(img.Manifest.MediaType, img.Documents[img.Manifest.Digest]); err != nil {
		return o, err
	}
	if img.Index != nil {
		o.Index, err = DecodeManifest(img.Index.MediaType, img.Documents[img.Index.Digest])
	}
	return o, err
}

// fetchTop asks once, by tag or digest, for what the reference names.
func (r *resolver) fetchTop(ctx context.Context, tagOrDigest string) (*Manifest, []byte, error) {
	capability := registry.Resolve
	want, err := digest.Parse(tagOrDigest)
	byDigest := err == nil
	if byDigest {
		capability = registry.Pull
	}
	a, err := get(ctx, r.repo, registry.Request{
		Path: "manifests/" + tagOrDigest, Header: http.Header{"Accept": {acceptImage}}, Capability: capability,
	}, maxManifestSize)
	if err != nil {
		return nil, nil, err
	}
	if !byDigest {
		// The header is what containerd will believe: it must be right.
		if want, err = digest.Parse(a.header.Get("Docker-Content-Digest")); err != nil {
			want = digest.FromBytes(a.body)
		}
	}
	if got := want.Algorithm().FromBytes(a.body); got != want {
		return nil, nil, reason.Errorf(reason.DigestMismatch, "manifest %s hashes to %s, not %s", tagOrDigest, got, want)
	}
	m, err := decodeManifest(a.mediaType, a.body)
	if err != nil {
		return nil, nil, reason.Wrap(reason.RegistryError, err)
	}
	m.Descriptor.Digest = want
	return m, a.body, nil
}

// choose walks an index to the first manifest that can run here, in the order in
// which containerd prefers them. Documents on the way are kept in docs, if not nil.
func (r *resolver) choose(ctx context.Context, index *Manifest, docs map[digest.Digest][]byte) (*Manifest, error) {
	entries := runnable(index.Manifests, r.platform)
	if len(entries) == 0 {
		return nil, reason.Errorf(reason.OtherPlatform, "index %s has no image for this platform", index.Descriptor.Digest)
	}
	if first := entries[0]; r.expect != nil && first.Platform != nil && isImage(first.MediaType) {
		r.expect(first.Digest)
		r.expect = nil
	}
	var failed error
	for _, entry := range entries {
		if r.fetched++; r.fetched > maxIndexFetches {
			return nil, reason.Errorf(reason.OtherPlatform, "index %s has no image for this platform among the first %d manifests", index.Descriptor.Digest, maxIndexFetches)
		}
		m, err := r.chooseEntry(ctx, entry, docs)
		if err == nil {
			return m, nil
		}
		if reason.Of(err) != reason.OtherPlatform {
			return nil, err
		}
		failed = err
	}
	return nil, failed
}

func (r *resolver) chooseEntry(ctx context.Context, entry ocispec.Descriptor, docs map[digest.Digest][]byte) (*Manifest, error) {
	a, err := getManifest(ctx, r.repo, entry, acceptImage)
	if err != nil {
		return nil, err
	}
	m, err := DecodeManifest(entry.MediaType, a.body)
	if err != nil {
		return nil, err
	}
	m.Descriptor.Digest = entry.Digest // the algorithm of the index, not always SHA-256
	m.Descriptor.Platform = entry.Platform
	switch {
	case isIndex(m.Descriptor.MediaType):
		if m, err = r.choose(ctx, m, docs); err != nil {
			return nil, err
		}
	case entry.Platform == nil && isImage(m.Descriptor.MediaType):
		if err := r.checkConfigPlatform(ctx, *m.Config); err != nil {
			return nil, err
		}
	}
	if docs != nil {
		docs[entry.Digest] = a.body
	}
	return m, nil
}

// checkConfigPlatform settles an entry without platform by its config, as containerd does.
func (r *resolver) checkConfigPlatform(ctx context.Context, config ocispec.Descriptor) error {
	content, err := getConfig(ctx, r.repo, config)
	if err != nil {
		return err
	}
	c, err := decodeConfig(content)
	if err != nil {
		return err
	}
	if !r.platform.Match(platforms.Normalize(c.Platform)) {
		return reason.Errorf(reason.OtherPlatform, "image is for %s", platforms.Format(c.Platform))
	}
	return nil
}

// runnable returns the entries that may be images for a platform, best first:
// containerd's order, equal ones as listed, those without platform last. Entries
// with os.features that the platform has not (EROFS and Nydus alternatives) do
// not match, as in containerd 2.1 and later; before, it took whichever stood
// first. What BuildKit, SOCI and others keep beside images is left out.
func runnable(entries []ocispec.Descriptor, platform platforms.MatchComparer) []ocispec.Descriptor {
	var found []ocispec.Descriptor
	for _, d := range entries {
		switch {
		case !isImage(d.MediaType) && !isIndex(d.MediaType),
			d.Annotations[annotationDockerReference] != "",
			foreignEntry(d),
			d.Platform != nil && !platform.Match(*d.Platform):
		default:
			found = append(found, d)
		}
	}
	sort.SliceStable(found, func(i, j int) bool {
		if found[i].Platform == nil || found[j].Platform == nil {
			return found[j].Platform == nil && found[i].Platform != nil
		}
		return platform.Less(*found[i].Platform, *found[j].Platform)
	})
	return found
}

// foreignEntry tells an artifact kept in an index (a SOCI index) from an image.
// Accelerated images are runnable and carry an artifact type as well, so that
// alone does not tell.
func foreignEntry(d ocispec.Descriptor) bool {
	return d.ArtifactType == artifactTypeSOCIv1 || d.ArtifactType == artifactTypeSOCIv2 ||
		d.ArtifactType != "" && d.Annotations[annotationSOCIManifest] != ""
}

// imageConfig is what negotiation needs of an image config.
type imageConfig struct {
	ocispec.Platform
	RootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

func decodeConfig(content []byte) (*imageConfig, error) {
	var c imageConfig
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "decode image config: %w", err)
	}
	if len(c.RootFS.DiffIDs) > maxDescriptors {
		return nil, reason.Errorf(reason.ArtifactInvalid, "image config has %d diff IDs, more than %d", len(c.RootFS.DiffIDs), maxDescriptors)
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return nil, reason.Errorf(reason.ArtifactInvalid, "diff ID %q: %w", id, err)
		}
	}
	return &c, nil
}

// loadConfig fetches the image's config and computes its chain IDs (image-spec
// 1.1, "Layer ChainID").
func loadConfig(ctx context.Context, repo *registry.Repository, img *Image) error {
	content, err := getConfig(ctx, repo, img.Config)
	if err != nil {
		return fmt.Errorf("fetch config of %s: %w", img.Reference, err)
	}
	c, err := decodeConfig(content)
	if err != nil {
		return fmt.Errorf("config of %s: %w", img.Reference, err)
	}
	if len(c.RootFS.DiffIDs) != len(img.Layers) {
		return reason.Errorf(reason.LayerMismatch, "config of %s has %d diff IDs for %d layers", img.Reference, len(c.RootFS.DiffIDs), len(img.Layers))
	}
	img.Platform = platforms.Normalize(c.Platform)
	img.DiffIDs = c.RootFS.DiffIDs
	img.ChainIDs = identity.ChainIDs(slices.Clone(c.RootFS.DiffIDs)) // works in place
	img.Documents[img.Config.Digest] = content
	return nil
}
