package negotiate

import (
	"context"
	"slices"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
)

// The artifact that a disk is, and what its one layer can be: a file system as it
// is or in a VHD, either in zstd that can be sought (docs/formats.md).
const (
	artifactTypeDisk = "application/vnd.referee.disk.v1"
	mediaTypeDiskRaw = "application/vnd.referee.disk.layer.v1.raw"
	mediaTypeDiskVHD = "application/vnd.referee.disk.layer.v1.vhd"
	suffixZstd       = "+zstd"
)

// disk recognises the merged file system of an image as one disk.
type disk struct{}

var _ Recogniser = disk{}

func (disk) Format() string { return "disk" }

func (disk) ArtifactTypes() []string { return []string{artifactTypeDisk} }

func (disk) LegacyTypes() []string { return nil }

// Recognise accepts its artifact type alone: a disk says of nothing else what it is.
func (d disk) Recognise(_ context.Context, a Artifact) (*Candidate, error) {
	if a.ArtifactType != artifactTypeDisk {
		return nil, ErrNotMine
	}
	if len(a.Files) != 1 {
		return nil, reason.Errorf(reason.ArtifactInvalid, "it has %d layers, a disk has one", len(a.Files))
	}
	if bare := strings.TrimSuffix(a.Files[0].MediaType, suffixZstd); bare != mediaTypeDiskRaw && bare != mediaTypeDiskVHD {
		return nil, reason.Errorf(reason.ArtifactInvalid, "its layer is a %s, not a disk", clip(a.Files[0].MediaType))
	}
	return &Candidate{Format: d.Format(), Config: a.Config, Layers: slices.Clone(a.Files), Fit: FitFlat, Foreign: true}, nil
}
