package negotiate

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

// Bounds of an inspection.
const (
	maxInspected     = 256 // artifacts whose own referrers are asked for
	maxInspectDepth  = 4   // an image, its form, the form's signature, and one more
	parallelInspects = 4
)

// Attachment is one node of the tree of what is attached to an image.
type Attachment struct {
	Descriptor   ocispec.Descriptor `json:"descriptor"`
	ArtifactType string             `json:"artifact_type,omitempty"`
	Found        Discovery          `json:"found"`
	Created      time.Time          `json:"created,omitzero"`
	Format       string             `json:"format,omitempty"`     // of a form of the image
	What         string             `json:"what,omitempty"`       // in words, of anything else
	Blobs        int                `json:"blobs,omitempty"`      // of a form, without its config
	Size         int64              `json:"size_bytes,omitempty"` // of these as the registry stores them
	Chosen       bool               `json:"chosen,omitempty"`
	Convincing   bool               `json:"convincing,omitempty"` // the signature that vouched for the chosen form
	Reason       reason.Code        `json:"reason,omitempty"`     // why it was not chosen
	Detail       string             `json:"detail,omitempty"`
	Attached     []*Attachment      `json:"attached,omitempty"`
	Problem      string             `json:"problem,omitempty"` // why Attached may be incomplete
}

// Inspection is what would be decided, and everything that was there to choose from.
type Inspection struct {
	Reference string        `json:"reference"`
	Platform  string        `json:"platform"`
	Layers    int           `json:"layers"`
	Size      int64         `json:"size_bytes"`       // of all layers as the registry stores them
	Policy    string        `json:"policy,omitempty"` // the block that holds; "": the default
	Outcome   string        `json:"outcome"`          // "lazy" or "ordinary"
	Format    string        `json:"format,omitempty"` // of the chosen form
	Artifact  digest.Digest `json:"artifact,omitempty"`
	Signer    *Signer       `json:"signer,omitempty"`
	Reason    reason.Code   `json:"reason,omitempty"` // why not lazy
	Detail    string        `json:"detail,omitempty"`
	// Index lists what is attached to the index that the reference names, if it
	// names one; Manifest what is attached to, or stands in, this platform's manifest.
	Index    *Attachment `json:"index,omitempty"`
	Manifest *Attachment `json:"manifest"`
}

// Inspect plans as Plan does and lists the whole tree of referrers, signatures
// under what they sign. It asks for much that a pull does not need.
func (n *Negotiator) Inspect(ctx context.Context, req Request) (*Inspection, error) {
	plan, j, err := n.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	w := &walk{judge: j, plan: plan, left: maxInspected, slots: make(chan struct{}, parallelInspects)}
	inspection := summary(plan)
	w.attachments(ctx, inspection.Manifest, 0)
	inspection.Manifest.Attached = append(w.standing(ctx), inspection.Manifest.Attached...)
	if plan.Image.Index != nil {
		inspection.Index = &Attachment{Descriptor: *plan.Image.Index}
		w.attachments(ctx, inspection.Index, 0)
	}
	return inspection, nil
}

// summary is an inspection without its tree.
func summary(plan *Plan) *Inspection {
	i := &Inspection{
		Reference: plan.Image.Reference, Platform: platforms.Format(plan.Image.Platform), Layers: len(plan.Image.Layers),
		Policy: plan.Rules.Name, Outcome: "ordinary", Reason: plan.Reason, Detail: plan.Detail,
		Manifest: &Attachment{Descriptor: plan.Image.Manifest},
	}
	for _, layer := range plan.Image.Layers {
		i.Size += layer.Size
	}
	if c := plan.Chosen; c != nil {
		i.Outcome, i.Format, i.Artifact, i.Signer = "lazy", c.Format, c.Artifact.Digest, c.Signer
	}
	return i
}

// walk collects the tree.
type walk struct {
	*judge

	plan  *Plan
	slots chan struct{}

	mu   sync.Mutex
	left int // artifacts that may still be asked about
}

// standing are the forms in the image itself.
func (w *walk) standing(ctx context.Context) []*Attachment {
	var forms []*Attachment
	if c := w.plan.Chosen; c != nil && c.Found == FoundInPlace {
		forms = append(forms, &Attachment{Descriptor: c.Artifact, Found: c.Found, Format: c.Format, Chosen: true})
	}
	for _, r := range w.plan.Rejected {
		if r.Found == FoundInPlace {
			forms = append(forms, &Attachment{Descriptor: r.Artifact, Found: r.Found, Format: r.Format, Reason: r.Reason, Detail: r.Detail})
		}
	}
	for _, form := range forms {
		if form.Descriptor.Digest == w.img.Manifest.Digest {
			form.measure(w.img.Layers)
		} else {
			w.weigh(ctx, form)
		}
	}
	return forms
}

// weigh asks what a form's manifest says of its size. Where that is not to be had it
// stays unknown: whether the form can be used has been said elsewhere.
func (w *walk) weigh(ctx context.Context, form *Attachment) {
	if form.Descriptor.Size == 0 {
		return // a SOCI index that is known by name only
	}
	if m, err := w.fetch(ctx, form.Descriptor); err == nil {
		form.measure(m.Files)
	}
}

func (a *Attachment) measure(blobs []ocispec.Descriptor) {
	a.Blobs, a.Size = len(blobs), 0
	for _, d := range blobs {
		a.Size += d.Size
	}
}

// attachments fills in what is attached to node, and to that.
func (w *walk) attachments(ctx context.Context, node *Attachment, depth int) {
	if depth == maxInspectDepth || !w.take() {
		node.Problem = "not looked at: too deep or too many"
		return
	}
	var list, byTag listing
	func() {
		w.slots <- struct{}{}
		defer func() { <-w.slots }()
		list = w.finder.find(ctx, node.Descriptor.Digest)
		byTag = w.finder.cosignTag(ctx, node.Descriptor.Digest)
		if node.Format != "" {
			w.weigh(ctx, node)
		}
	}()
	list = listing{entries: slices.Clone(list.entries), problem: list.problem}
	list.merge(byTag)
	if list.problem != nil {
		node.Problem = list.problem.Error()
	}
	for _, e := range list.entries {
		node.Attached = append(node.Attached, w.describe(e))
	}
	var below sync.WaitGroup // waited for here
	for _, child := range node.Attached {
		below.Go(func() { w.attachments(ctx, child, depth+1) })
	}
	below.Wait()
}

func (w *walk) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left--
	return w.left >= 0
}

// describe says what an entry is and what became of it.
func (w *walk) describe(e entry) *Attachment {
	a := &Attachment{Descriptor: e.descriptor(), ArtifactType: e.artifactType, Found: e.found, Created: e.created}
	claimant, _ := claim(w.n.recognisers, e.artifactType)
	switch {
	case claimant != nil:
		a.Format = claimant.Format()
	case signatureKind(e.artifactType) != "":
		a.What = string(signatureKind(e.artifactType)) + " signature"
	default:
		a.What = describeOther(e.artifactType)
	}
	if c := w.plan.Chosen; c != nil {
		if c.covers(e.digest) {
			a.Chosen, a.Format, a.What = true, c.Format, ""
		}
		a.Convincing = c.Signer != nil && c.Signer.Signature == e.digest
	}
	for _, r := range w.plan.Rejected {
		if !a.Chosen && r.Artifact.Digest == e.digest && claimant != nil {
			a.Reason, a.Detail = r.Reason, r.Detail
		}
	}
	return a
}

// covers tells whether d is the artifact that c was found by.
func (c *Candidate) covers(d digest.Digest) bool {
	return c.Artifact.Digest == d || slices.ContainsFunc(c.signable, func(s ocispec.Descriptor) bool { return !c.Bound && s.Digest == d })
}
