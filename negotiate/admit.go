package negotiate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// none tells whether the rules allow no form at all.
func (r *Rules) none() bool { return r.Formats != nil && len(r.Formats) == 0 }

// mayWantSignature tells whether there is a form that needs a signature.
func (r *Rules) mayWantSignature() bool {
	return r.RequireSignature || r.ForeignFilesystems == ForeignSignedOnly
}

// wantsSignature tells whether c needs one.
func (r *Rules) wantsSignature(c *Candidate) bool {
	return r.RequireSignature || r.ForeignFilesystems == ForeignSignedOnly && c.Foreign
}

// said names the rules in a sentence.
func (r *Rules) said() string {
	if r.Name == "" {
		return "the policy"
	}
	return "policy " + r.Name
}

// worthwhile tells, from the manifest alone, why no form of the image is wanted.
func (j *judge) worthwhile() error {
	if j.rules.none() {
		return reason.Errorf(reason.Disabled, "%s allows no form of images in %s", j.rules.said(), j.img.Repository)
	}
	var size int64
	for _, layer := range j.img.Layers {
		if size += layer.Size; size < 0 {
			return reason.Errorf(reason.RegistryError, "the image's layers claim more bytes than can be counted")
		}
	}
	switch {
	case len(j.img.Layers) == 0:
		return reason.Errorf(reason.NoMatch, "the image has no layers")
	case size < j.rules.MinSize:
		return reason.Errorf(reason.TooSmall, "the image is %d bytes, %s wants at least %d", size, j.rules.said(), j.rules.MinSize)
	}
	return nil
}

// allow tells why forms of a format are not even looked at.
func (j *judge) allow(format string) error {
	if j.rules.Formats != nil && !slices.Contains(j.rules.Formats, format) {
		return reason.Errorf(reason.FormatNotAllowed, "%s does not list %s", j.rules.said(), format)
	}
	return reason.Wrap(reason.NotAttachable, j.n.attachable(format))
}

// admit applies what the policy says of a sound form, but for signatures.
func (j *judge) admit(c *Candidate) error {
	if err := j.allow(c.Format); err != nil {
		return err
	}
	if c.Foreign && j.rules.ForeignFilesystems == ForeignDeny {
		return reason.Errorf(reason.ForeignFilesystem, "%s keeps file-system images of others from the kernel, and %s is one", j.rules.said(), c.Format)
	}
	c.rank = j.rank(c.Format)
	return nil
}

// rank is the position of a format that is allowed: in the policy's list, or
// without one among the recognisers.
func (j *judge) rank(format string) int {
	if j.rules.Formats != nil {
		return slices.Index(j.rules.Formats, format)
	}
	return slices.IndexFunc(j.n.recognisers, func(r Recogniser) bool { return r.Format() == format })
}

// inPlace finds the forms that stand in the image itself.
func (j *judge) inPlace() (candidates []*Candidate, rejected []Rejection) {
	preference := 0
	for _, r := range j.n.recognisers {
		preference += len(r.ArtifactTypes())
		in, ok := r.(InPlaceRecogniser)
		if !ok {
			continue
		}
		c, err := in.RecogniseInPlace(j.original)
		if errors.Is(err, ErrNotMine) {
			continue
		}
		if c == nil {
			c = &Candidate{Artifact: j.img.Manifest}
		}
		c.Format, c.Found, c.Bound, c.preference = r.Format(), FoundInPlace, true, preference
		c.Subject = j.img.Manifest.Digest
		if c.signable == nil { // else an entry of the index, which the manifest does not cover
			c.signable = []ocispec.Descriptor{j.img.Manifest}
		}
		if j.img.Index != nil { // which is what people sign, as a rule
			c.signable = slices.Insert(c.signable, 0, *j.img.Index)
		}
		if denied := j.allow(c.Format); denied != nil {
			err = denied
		} else if err == nil {
			err = j.admit(c)
		}
		if err != nil {
			rejected = append(rejected, c.rejection(err))
			continue
		}
		candidates = append(candidates, c)
	}
	return candidates, rejected
}

func (c *Candidate) rejection(err error) Rejection {
	return Rejection{
		Artifact: c.Artifact, ArtifactType: c.ArtifactType, Format: c.Format, Found: c.Found,
		Reason: reason.Of(err), Detail: err.Error(),
	}
}

// choose takes the best candidate that is vouched for as far as the policy wants
// that; the others become rejections that say why.
func (j *judge) choose(ctx context.Context, d *decision, candidates []*Candidate) {
	rank(candidates)
	for _, c := range candidates {
		if d.chosen != nil {
			d.rejected = append(d.rejected, c.rejection(reason.Errorf(reason.LowerRanked, "%s %s was preferred", d.chosen.Format, d.chosen.Artifact.Digest)))
			if !j.rules.wantsSignature(c) {
				d.vouched = append(d.vouched, c.Artifact.Digest)
			}
			continue
		}
		if j.rules.wantsSignature(c) {
			if err := j.vouch(ctx, c); err != nil {
				d.rejected = append(d.rejected, c.rejection(err))
				continue
			}
		}
		if err := j.completeForm(ctx, c); err != nil {
			d.rejected = append(d.rejected, c.rejection(err))
			continue
		}
		d.chosen = c
		d.vouched = append(d.vouched, c.Artifact.Digest)
	}
}

// completeForm has the form's family add what a further manifest tells of it.
func (j *judge) completeForm(ctx context.Context, c *Candidate) error {
	i := slices.IndexFunc(j.n.recognisers, func(r Recogniser) bool { return r.Format() == c.Format })
	if i < 0 {
		return nil
	}
	if completer, ok := j.n.recognisers[i].(Completer); ok {
		return completer.Complete(ctx, c, j.original, j.fetchNamed)
	}
	return nil
}

// top is what the reference names.
func (img *Image) top() ocispec.Descriptor {
	if img.Index != nil {
		return *img.Index
	}
	return img.Manifest
}

// deny takes every form away: the image itself may not be used.
func (p *Plan) deny(err error) {
	err = reason.Wrap(reason.ImageDenied, err)
	if p.Chosen != nil {
		p.Rejected = append(p.Rejected, p.Chosen.rejection(err))
	}
	p.Chosen, p.Vouched = nil, []digest.Digest{}
	p.Reason, p.Detail = reason.Of(err), fmt.Sprint(err)
}
