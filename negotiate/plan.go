package negotiate

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Plan is what negotiation decided for one pull, with the reason for every
// candidate it did not take.
type Plan struct {
	Image    Image
	Chosen   *Candidate  // nil: ordinary pull
	Rejected []Rejection // in the order in which they were looked at
	Reason   reason.Code // why there is no Chosen; None where there is
	Detail   string      // the same as one sentence for a person
	Rules    *Rules      // of the policy, for the image's repository
	// Vouched are the artifacts that this repository attaches to this image and
	// that the policy lets pass, the chosen one among them: on their word a layer
	// may stand that another repository brought here.
	Vouched []digest.Digest
}

// Lazy tells whether there is an accelerated form to attach.
func (p *Plan) Lazy() bool { return p != nil && p.Chosen != nil }

// Image is the image that was asked for, as the registry serves it to everyone.
type Image struct {
	Reference string // normalised as containerd does: "registry.example/redis:7"; a digest replaces the tag
	// Repository is Reference without tag and digest. Blobs of the image and of
	// every candidate are fetched from there.
	Repository string
	Index      *ocispec.Descriptor // what the reference names, where that is an index
	Manifest   ocispec.Descriptor  // the manifest for this node's platform
	Config     ocispec.Descriptor  // its config: containerd's image ID is this digest
	Layers     []ocispec.Descriptor
	DiffIDs    []digest.Digest // one a layer, bottom first
	ChainIDs   []digest.Digest // one a layer, bottom first
	Platform   ocispec.Platform

	// Documents holds the exact bytes of what was fetched and verified on the
	// way (index, manifest, config), by digest, so that nobody need fetch them again.
	Documents map[digest.Digest][]byte
}

// Candidate is one accelerated form of an image.
type Candidate struct {
	Format       string               // "overlaybd"
	ArtifactType string               // as the artifact's manifest names it
	Artifact     ocispec.Descriptor   // the referrer's own manifest; of an index, the entry for this platform
	Subject      digest.Digest        // what it is attached to: the image's manifest or index
	Found        Discovery            // how it was found
	Created      time.Time            // zero where the artifact does not say
	Config       *ocispec.Descriptor  // the artifact's image config, where it has one
	Layers       []ocispec.Descriptor // lazily readable blobs, bottom first
	Tables       []ocispec.Descriptor // further blobs without which Layers cannot be read
	Fit          Fit                  // how Layers stand to the image's layers

	// Bound: the image's own digest covers the form, so it needs no other trust.
	Bound bool
	// Foreign: the form holds a file-system image that the kernel parses as it is.
	Foreign bool
	// Signer is who vouches for the form, nil where nobody was asked for; Proof is
	// the signature that says so.
	Signer *Signer
	Proof  *Signature

	stacked    int                  // how many layers the form has, where Layers are not its own; 0: they are
	signable   []ocispec.Descriptor // what a signature may be of to cover the form
	rank       int                  // by policy, lower first
	preference int                  // by the recogniser, lower first
}

// Fit says which prefixes of a candidate's layers are prefixes of the image.
type Fit string

// The fits.
const (
	// FitLayers: one layer for each of the image's, in the same order.
	FitLayers Fit = "layers"
	// FitBased: an empty file system as layer 0, then one layer for each of the
	// image's (`--mkfs=false` of the original converter).
	FitBased Fit = "based"
	// FitFlat: one layer holds the whole image; no prefix is addressable.
	FitFlat Fit = "flat"
)

// Discovery names the way in which a referrer was found.
type Discovery string

// The ways.
const (
	FoundReferrersAPI Discovery = "referrers-api" // OCI distribution-spec 1.1
	FoundTagSchema    Discovery = "tag-schema"    // its fallback tag
	FoundORASv2       Discovery = "oras-v2"       // /v2/<name>/_oras/artifacts/referrers
	FoundORASv1       Discovery = "oras-v1"       // /oras/artifacts/v1/<name>/manifests/<digest>/referrers
	FoundInPlace      Discovery = "in-place"      // in the image's own manifest or index
	FoundCosignTag    Discovery = "cosign-tag"    // the tag <algorithm>-<hex>.sig, for signatures alone
)

// Rejection is a referrer that was looked at and not taken.
type Rejection struct {
	Artifact     ocispec.Descriptor
	ArtifactType string // empty if nobody said
	Format       string // empty if not recognised
	Found        Discovery
	Reason       reason.Code
	Detail       string // one sentence for a person
}
