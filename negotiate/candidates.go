package negotiate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// Bounds on the artifacts that one list may make us fetch.
const (
	maxFetches      = 8 // of each kind: those that say what they are, those that do not
	parallelFetches = 4
	artifactTTL     = time.Hour // they are content-addressed; this only bounds what is kept
)

// subject is what artifacts are asked to be attached to.
type subject struct {
	descriptor ocispec.Descriptor
	isIndex    bool
}

// judge turns a list of referrers into candidates and rejections.
type judge struct {
	n        *Negotiator
	repo     *registry.Repository
	rules    *Rules
	img      *Image
	original Original
	wanted   ocispec.Platform
	match    platforms.MatchComparer
	finder   *finder
	early    *lookahead // nil where nothing was asked in advance

	signatures sync.Map // of digest.Digest: func() gathered
}

// attached lists what is attached to d: forms of the image, or signatures of an artifact.
func (j *judge) attached(ctx context.Context, d digest.Digest) listing {
	switch {
	case j.early != nil && j.early.subject == d:
		return j.early.wait(ctx)
	case d == j.img.Manifest.Digest || d == j.img.top().Digest:
		return j.finder.find(ctx, d)
	default:
		return j.finder.findAll(ctx, d)
	}
}

// outcome is what became of one referrer: exactly one member is set.
type outcome struct {
	candidate *Candidate
	rejection *Rejection
}

// consider looks at every entry. Those whose type a recogniser claims are
// fetched first, unless node or policy rule out their format; nameless ones only
// if none of those will do.
func (j *judge) consider(ctx context.Context, list listing, s subject) (candidates []*Candidate, rejected []Rejection) {
	claimed, nameless, rejected := j.sort(list)
	for _, group := range [...][]entry{claimed, nameless} {
		if len(candidates) > 0 {
			rejected = append(rejected, skipped(group, "not looked at: a form that says what it is was found")...)
			continue
		}
		first := group[:min(len(group), maxFetches)]
		rejected = append(rejected, skipped(group[len(first):], fmt.Sprintf("not looked at: more than %d are attached, the newest were", maxFetches))...)
		for _, o := range j.fetchAll(ctx, first, s) {
			if o.candidate != nil {
				candidates = append(candidates, o.candidate)
			} else {
				rejected = append(rejected, *o.rejection)
			}
		}
	}
	return candidates, rejected
}

// sort parts what a recogniser claims, the preferred types first, from what does
// not say what it is, and from what cannot be used.
func (j *judge) sort(list listing) (claimed, nameless []entry, rejected []Rejection) {
	for _, e := range list.entries {
		claimant, _ := claim(j.n.recognisers, e.artifactType)
		switch {
		case claimant != nil:
			if err := j.allow(claimant.Format()); err != nil {
				r := e.rejection(reason.Of(err), err.Error())
				r.Format = claimant.Format()
				rejected = append(rejected, r)
				continue
			}
			claimed = append(claimed, e)
		case slices.Contains(namelessTypes, e.artifactType):
			nameless = append(nameless, e)
		default:
			rejected = append(rejected, e.rejection(reason.NoMatch, describeOther(e.artifactType)))
		}
	}
	slices.SortStableFunc(claimed, func(a, b entry) int {
		_, pa := claim(j.n.recognisers, a.artifactType)
		_, pb := claim(j.n.recognisers, b.artifactType)
		return cmp.Compare(pa, pb)
	})
	return claimed, nameless, rejected
}

func skipped(entries []entry, detail string) []Rejection {
	var rejected []Rejection
	for _, e := range entries {
		rejected = append(rejected, e.rejection(reason.LowerRanked, detail))
	}
	return rejected
}

func (e entry) rejection(code reason.Code, detail string) Rejection {
	return Rejection{Artifact: e.descriptor(), ArtifactType: e.artifactType, Found: e.found, Reason: code, Detail: detail}
}

// fetchAll examines entries side by side; outcomes come in the order of entries.
func (j *judge) fetchAll(ctx context.Context, entries []entry, s subject) []outcome {
	outcomes := make([]outcome, len(entries))
	var g errgroup.Group // waited for below; its functions never fail
	g.SetLimit(parallelFetches)
	for i, e := range entries {
		g.Go(func() error {
			var c *Candidate
			err := contain.Panic(j.n.log, "examining an artifact", func() (err error) {
				c, err = j.examine(ctx, e, s)
				return err
			})
			if err == nil {
				outcomes[i].candidate = c
				return nil
			}
			r := e.rejection(reason.Of(err), err.Error())
			if claimant, _ := claim(j.n.recognisers, e.artifactType); claimant != nil {
				r.Format = claimant.Format()
			}
			if errors.Is(err, ErrNotMine) {
				r.Reason, r.Detail = reason.NoMatch, describeOther(e.artifactType)
			}
			outcomes[i].rejection = &r
			return nil
		})
	}
	_ = g.Wait() // see above
	return outcomes
}

// examine fetches one artifact, and its signatures if they will be wanted, and
// takes it as a candidate or says why not.
func (j *judge) examine(ctx context.Context, e entry, s subject) (*Candidate, error) {
	if j.rules.mayWantSignature() {
		var ahead sync.WaitGroup
		ahead.Go(func() {
			_ = contain.Panic(j.n.log, "looking for signatures", func() error {
				j.signaturesOf(ctx, e.descriptor()) // remembered
				return nil
			})
		})
		defer ahead.Wait()
	}
	m, err := j.fetch(ctx, e.descriptor())
	if err != nil {
		return nil, err
	}
	if m.Subject == nil {
		return nil, reason.Errorf(reason.SubjectMismatch, "the artifact names no subject, so it is not attached to %s", s.descriptor.Digest)
	}
	if m.Subject.Digest != s.descriptor.Digest {
		return nil, reason.Errorf(reason.SubjectMismatch, "the artifact is attached to %s, not to %s", m.Subject.Digest, s.descriptor.Digest)
	}
	artifactType, signable := m.ArtifactType, []ocispec.Descriptor{m.Descriptor}
	if m, err = j.forPlatform(ctx, m, s); err != nil {
		return nil, err
	}
	if m.Descriptor.Digest != signable[0].Digest && m.Subject != nil {
		// In an index, which covers it. Its own signature counts as well where it says
		// itself what it belongs to: any index can list what somebody else has signed.
		signable = append(signable, m.Descriptor)
	}
	c, err := j.recognise(ctx, m)
	if err != nil {
		return nil, err
	}
	c.Artifact, c.ArtifactType, c.Subject, c.signable = m.Descriptor, artifactType, s.descriptor.Digest, signable
	c.Found, c.Created = e.found, created(m.Annotations)
	_, c.preference = claim(j.n.recognisers, artifactType)
	if err := j.fit(ctx, c); err != nil {
		return nil, err
	}
	return c, j.admit(c)
}

// forPlatform picks the manifest for this platform out of an artifact that is an
// index: the converted form of a whole multi-platform image. A single manifest
// attached to an index must be for this platform by its own config.
func (j *judge) forPlatform(ctx context.Context, m *Manifest, s subject) (*Manifest, error) {
	r := &resolver{repo: j.repo, platform: j.match}
	switch {
	case isIndex(m.Descriptor.MediaType):
		chosen, err := r.choose(ctx, m, nil)
		if err != nil {
			return nil, fmt.Errorf("choose platform: %w", err)
		}
		if chosen.Subject != nil && chosen.Subject.Digest != j.img.Manifest.Digest {
			return nil, reason.Errorf(reason.SubjectMismatch, "its manifest for this platform is attached to %s, not to %s", chosen.Subject.Digest, j.img.Manifest.Digest)
		}
		if claimant, _ := claim(j.n.recognisers, chosen.ArtifactType); claimant == nil {
			chosen.ArtifactType = m.ArtifactType
		}
		return chosen, nil
	case s.isIndex && m.Config != nil:
		if err := r.checkConfigPlatform(ctx, *m.Config); err != nil {
			return nil, err
		}
	case s.isIndex:
		return nil, reason.Errorf(reason.OtherPlatform, "the artifact is attached to the index, and does not say for which platform it is")
	}
	return m, nil
}

func (j *judge) recognise(ctx context.Context, m *Manifest) (*Candidate, error) {
	for _, r := range j.n.recognisers {
		c, err := r.Recognise(ctx, Artifact{Manifest: m, Platform: j.wanted, Image: j.img.Layers, Fetch: j.fetch})
		if !errors.Is(err, ErrNotMine) {
			return c, err
		}
	}
	return nil, ErrNotMine
}

// fit decides how the candidate's layers stand to the image's, unless its
// recogniser knows. Equal numbers need no further proof. Otherwise the artifact's
// own config must count the layers that are there, and either there is one layer
// for the whole image, or one more than the image has: an empty file system below.
func (j *judge) fit(ctx context.Context, c *Candidate) error {
	have, want := len(c.Layers), len(j.img.Layers)
	if c.stacked != 0 {
		have = c.stacked
	}
	if c.Fit != "" {
		return nil
	}
	switch have {
	case want:
		c.Fit = FitLayers
		return nil
	case want + 1:
		c.Fit = FitBased
	case 1:
		c.Fit = FitFlat
	default:
		return reason.Errorf(reason.LayerMismatch, "it has %d layers, the image has %d", have, want)
	}
	if c.Config == nil {
		return reason.Errorf(reason.LayerMismatch, "it has %d layers, the image has %d, and no config says why", have, want)
	}
	content, err := getConfig(ctx, j.repo, *c.Config)
	if err != nil {
		return fmt.Errorf("fetch its config: %w", err)
	}
	config, err := decodeConfig(content)
	if err != nil {
		return err
	}
	if n := len(config.RootFS.DiffIDs); n != have {
		return reason.Errorf(reason.LayerMismatch, "it has %d layers, its config has %d diff IDs, the image has %d layers", have, n, want)
	}
	return nil
}

// artifactKey names a remembered manifest. It holds the repository because a
// manifest may be read only by those who may read there, which every plan proves
// by resolving its image first.
type artifactKey struct {
	repository string
	digest     digest.Digest
}

// fetch gets and decodes a manifest of the repository.
func (j *judge) fetch(ctx context.Context, d ocispec.Descriptor) (*Manifest, error) {
	return j.fetchBy(ctx, d, getManifest)
}

// fetchNamed is fetch of a manifest of which nobody may have said the size: that is 0 then.
func (j *judge) fetchNamed(ctx context.Context, d ocispec.Descriptor) (*Manifest, error) {
	if d.Size == 0 {
		return j.fetchBy(ctx, d, getNamedManifest)
	}
	return j.fetch(ctx, d)
}

func (j *judge) fetchBy(ctx context.Context, d ocispec.Descriptor, get func(context.Context, *registry.Repository, ocispec.Descriptor, string) (*answer, error)) (*Manifest, error) {
	key := artifactKey{j.repo.Name(), d.Digest}
	content, known := j.n.artifacts.get(key)
	if !known || d.Size != 0 && int64(len(content)) != d.Size {
		a, err := get(ctx, j.repo, d, acceptArtifact)
		if err != nil {
			return nil, err
		}
		content = a.body
		j.n.artifacts.put(key, content, len(content), artifactTTL)
	}
	m, err := DecodeManifest(d.MediaType, content)
	if err != nil {
		return nil, err
	}
	m.Descriptor.Digest = d.Digest
	return m, nil
}

// rank puts the candidates into order of preference, the same for every node
// and every order in which a registry lists.
func rank(candidates []*Candidate) {
	slices.SortStableFunc(candidates, func(a, b *Candidate) int {
		return cmp.Or(
			cmp.Compare(a.rank, b.rank),
			cmp.Compare(a.preference, b.preference),
			b.Created.Compare(a.Created),
			cmp.Compare(a.Artifact.Digest, b.Artifact.Digest),
		)
	})
}
