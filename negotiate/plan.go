package negotiate

import (
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
}

// Image is the image that was asked for, as the registry serves it to everyone.
type Image struct {
	Reference string              // normalised: "registry.example/redis:7", with its digest if one was given
	Index     *ocispec.Descriptor // what the reference names, where that is an index
	Manifest  ocispec.Descriptor  // the manifest for this node's platform
	Config    ocispec.Descriptor  // its config: containerd's image ID is this digest
	Layers    []ocispec.Descriptor
	ChainIDs  []digest.Digest // one a layer, bottom first

	// Documents holds the exact bytes of what was fetched and verified on the
	// way (index, manifest, config), by digest, so that nobody need fetch them again.
	Documents map[digest.Digest][]byte
}

// Candidate is one accelerated form of an image.
type Candidate struct {
	Format   string               // "overlaybd"
	Artifact ocispec.Descriptor   // the referrer's own manifest
	Found    Discovery            // how it was found
	Layers   []ocispec.Descriptor // lazily readable blobs, bottom first
	Prefetch *ocispec.Descriptor  // a trace or priority list, where the form has one
}

// Discovery names the way in which a referrer was found.
type Discovery string

// The ways, newest first.
const (
	FoundReferrersAPI Discovery = "referrers-api" // OCI distribution-spec 1.1
	FoundTagSchema    Discovery = "tag-schema"    // its fallback tag
	FoundORASv2       Discovery = "oras-v2"       // /v2/<name>/_oras/artifacts/referrers
	FoundORASv1       Discovery = "oras-v1"       // /oras/artifacts/v1/<name>/manifests/<digest>/referrers
)

// Rejection is a referrer that was looked at and not taken.
type Rejection struct {
	Artifact ocispec.Descriptor
	Format   string // empty if not recognised
	Reason   reason.Code
	Detail   string // one sentence for a person
}
