package host

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Standing says on whose word a chain stands whose content was not unpacked from
// its own layers.
type Standing struct {
	Chain  digest.Digest
	Volume string
	// Suspect: it was unpacked from its layer, but over the volume, before that was
	// replaced. Nobody's word is known for such a chain.
	Suspect bool
	// Materialised: it was a volume and is the plain content of all layers up to it
	// now. Of the rest only Chain is set.
	Materialised bool
	// Repository is where the volume came from, Artifact the form it holds, Vouchers
	// the further repositories that attach it to an image with this chain, Word what
	// the caller gave for it. All are empty where nobody's word is known: the record
	// is lost, or was written for another chain.
	Repository string
	Artifact   digest.Digest
	Vouchers   []string
	Word       json.RawMessage
}

// Words returns, for each of chains that is, was or stood on a graft, on whose word
// it stands.
func (h *Host) Words(ctx context.Context, chains []digest.Digest) ([]Standing, error) {
	grafts, suspects, materialised, err := h.grafter.Standing(ctx)
	if err != nil {
		return nil, err
	}
	var standings []Standing
	for _, graft := range grafts {
		if slices.Contains(chains, graft.Chain) {
			standings = append(standings, h.standing(graft.Chain, graft.Volume))
		}
	}
	for _, suspect := range suspects {
		if slices.Contains(chains, suspect.Chain) {
			standings = append(standings, Standing{Chain: suspect.Chain, Volume: suspect.Volume, Suspect: true})
		}
	}
	for _, plain := range materialised {
		if slices.Contains(chains, plain.Chain) {
			standings = append(standings, Standing{Chain: plain.Chain, Materialised: true})
		}
	}
	return standings, nil
}

func (h *Host) standing(chain digest.Digest, volume string) Standing {
	s := Standing{Chain: chain, Volume: volume}
	spec, err := h.volumes.Recorded(volume)
	switch {
	case err != nil:
		h.log.Warn("graft without a word", zap.Stringer("chain", chain), zap.Error(err))
	case spec.Chain == chain:
		s.Repository, s.Artifact, s.Vouchers, s.Word = spec.Repository, spec.Artifact.Digest, spec.Vouchers, spec.Word
	}
	return s
}

// Vouch notes durably that repository, too, attaches the volume's artifact to an
// image with the volume's chain. A word that is not nil replaces the former one.
func (h *Host) Vouch(ctx context.Context, volume, repository string, word json.RawMessage) error {
	return h.volumes.Vouch(ctx, volume, repository, word)
}
