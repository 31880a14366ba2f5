package main

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/volume"
	"github.com/referee-cri/referee/negotiate"
)

// word is what a volume's record keeps of who vouches for it: the signature
// itself, so that it can be judged again by the rules of a later day.
type word struct {
	Signer *negotiate.Signer    `json:"signer"`
	Proof  *negotiate.Signature `json:"proof"`
}

// wordOf is nil where nobody signed, or at greater length than can be kept.
func wordOf(c *negotiate.Candidate) json.RawMessage {
	if c.Signer == nil || c.Proof == nil {
		return nil
	}
	encoded, err := json.Marshal(word{c.Signer, c.Proof})
	if err != nil || len(encoded) > volume.MaxWord {
		return nil
	}
	return encoded
}

func (n node) Standings(ctx context.Context, chains []digest.Digest) ([]fallback.Standing, error) {
	words, err := n.host.Words(ctx, chains)
	if err != nil {
		return nil, err
	}
	standings := make([]fallback.Standing, 0, len(words))
	for _, w := range words {
		var said word
		if w.Word != nil && json.Unmarshal(w.Word, &said) != nil {
			said = word{} // of another version: nobody signed, as far as we know
		}
		standings = append(standings, fallback.Standing{
			Chain: w.Chain, Volume: w.Volume, Suspect: w.Suspect, Materialised: w.Materialised, Repository: w.Repository, Artifact: w.Artifact, Vouchers: w.Vouchers,
			Signer: said.Signer, Proof: said.Proof, Quarantined: !w.Suspect && !w.Materialised && n.completion.Quarantined(w.Volume),
		})
	}
	return standings, nil
}

func (n node) Vouch(ctx context.Context, volume, repository string) error {
	return n.host.Vouch(ctx, volume, repository, nil)
}

func (n node) Target(ctx context.Context, reference string) (digest.Digest, error) {
	return n.host.Target(ctx, reference)
}

func (n node) Forget(ctx context.Context, reference string, target digest.Digest) error {
	return n.host.Forget(ctx, reference, target)
}

func (n node) Originals(ctx context.Context, reference string) ([]*negotiate.Image, error) {
	originals, err := n.host.Originals(ctx, reference)
	if err != nil {
		return nil, err
	}
	images := make([]*negotiate.Image, len(originals))
	for i, original := range originals {
		images[i] = &negotiate.Image{
			Reference: reference, Repository: original.Repository, Layers: original.Layers, DiffIDs: original.DiffIDs, ChainIDs: original.ChainIDs(),
		}
	}
	return images, nil
}

func (n node) Materialise(ctx context.Context, pull fallback.Pull, image *negotiate.Image, chain digest.Digest) error {
	original := host.Original{Repository: image.Repository, Layers: image.Layers, DiffIDs: image.DiffIDs}
	return n.host.Materialise(ctx, chain, original, credentials(pull.Auth), nil)
}
