package fallback

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// Outcome is the way a pull went.
type Outcome string

// The ways.
const (
	Lazy     Outcome = "lazy"     // an accelerated form was attached first
	Ordinary Outcome = "ordinary" // containerd alone did whatever there was to do
)

// Seconds is a duration in a journal entry.
type Seconds float64

func seconds(d time.Duration) Seconds { return Seconds(d.Round(time.Microsecond).Seconds()) }

// Duration returns s as Go's own type.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Entry is what was decided at the last pull of a reference and how it went.
// Texts in it may come from registries: [Entry.WriteText] makes them safe to
// look at.
type Entry struct {
	Time      time.Time     `json:"time"`               // when the pull came in
	Reference string        `json:"reference"`          // normalised; as sent where it could not be parsed
	Manifest  digest.Digest `json:"manifest,omitempty"` // of this node's platform
	Config    digest.Digest `json:"config,omitempty"`   // containerd's image ID
	Resolved  time.Time     `json:"resolved,omitzero"`  // when the registry said so
	Outcome   Outcome       `json:"outcome"`
	Reason    reason.Code   `json:"reason,omitempty"`   // why not lazy
	Sentence  string        `json:"sentence,omitempty"` // the same for a person

	ImageBytes int64 `json:"image_bytes,omitempty"` // of the image's layers as the registry stores them: what an ordinary pull fetches at most
	FormBytes  int64 `json:"form_bytes,omitempty"`  // of the whole of the chosen form

	Format   string              `json:"format,omitempty"`   // of the chosen candidate, attached or not
	Artifact digest.Digest       `json:"artifact,omitempty"` // its manifest
	Found    negotiate.Discovery `json:"found,omitempty"`    // how it was found
	Policy   string              `json:"policy,omitempty"`   // the block that held; "": the default
	Signer   string              `json:"signer,omitempty"`   // who vouched for the artifact
	Volume   string              `json:"volume,omitempty"`
	Fetched  int64               `json:"fetched_bytes"`      // while preparing
	Requests int64               `json:"requests,omitempty"` // made for them

	Rejected []Rejected `json:"rejected,omitempty"` // candidates not taken
	Omitted  int        `json:"omitted,omitempty"`  // more of them, not kept
	// Materialised are the chains whose original layers took the place of a form
	// that another repository had attached and this one does not confirm.
	Materialised []Materialised `json:"materialised,omitempty"`
	Steps        Steps          `json:"steps"`
	Warnings     []string       `json:"warnings,omitempty"` // what failed without changing the outcome
	Forward      *Forward       `json:"forward,omitempty"`  // the latest pull's end at containerd

	Repeated   int        `json:"repeated,omitempty"` // later pulls that found the image in place
	RepeatedAt *time.Time `json:"repeated_at,omitempty"`
}

// Materialised is a chain whose original layers were put in place.
type Materialised struct {
	Chain digest.Digest `json:"chain"`
	Why   string        `json:"why"` // for a person
}

// Steps is how long each part took, zero where it was not reached.
type Steps struct {
	// Prepare is all that came before the pull was forwarded.
	Prepare   Seconds `json:"prepare_seconds,omitempty"`
	Present   Seconds `json:"present_seconds,omitempty"`
	Negotiate Seconds `json:"negotiate_seconds,omitempty"`
	Open      Seconds `json:"open_seconds,omitempty"`
	Mount     Seconds `json:"mount_seconds,omitempty"`
	Graft     Seconds `json:"graft_seconds,omitempty"`
	Shield    Seconds `json:"shield_seconds,omitempty"`
	// Materialise is how long original layers took to fetch and unpack.
	Materialise Seconds `json:"materialise_seconds,omitempty"`
	Forward     Seconds `json:"forward_seconds,omitempty"`
	// Confirm is how long it took, after a forwarded pull, to make sure of what the
	// image stands on; of the slowest caller, and of Forward a part.
	Confirm Seconds `json:"confirm_seconds,omitempty"`
}

// Forward is how containerd's part of the pull ended.
type Forward struct {
	Error string `json:"error,omitempty"` // "": it succeeded
}

// Rejected is a candidate that was not taken.
type Rejected struct {
	Artifact digest.Digest `json:"artifact,omitempty"`
	Format   string        `json:"format,omitempty"` // "": not recognised
	Reason   reason.Code   `json:"reason"`
	Detail   string        `json:"detail,omitempty"`
}

// Bounds of an entry, so that a registry cannot fill the disk through the journal.
const (
	maxRejected = 32
	maxText     = 1024 // bytes of any one text
)

// describe takes over what a plan says.
func (e *Entry) describe(plan *negotiate.Plan) {
	e.Manifest = plan.Image.Manifest.Digest
	e.Config = plan.Image.Config.Digest
	if plan.Rules != nil {
		e.Policy = plan.Rules.Name
	}
	e.ImageBytes = bytesOf(plan.Image.Layers)
	if chosen := plan.Chosen; chosen != nil {
		e.FormBytes = bytesOf(chosen.Layers) + bytesOf(chosen.Tables)
		e.Format, e.Artifact, e.Found = chosen.Format, chosen.Artifact.Digest, chosen.Found
		if chosen.Signer != nil {
			e.Signer = fmt.Sprintf("%s (%s, %s)", chosen.Signer.Identity, chosen.Signer.Trust, chosen.Signer.Kind)
		}
	}
	for _, r := range plan.Rejected {
		if len(e.Rejected) == maxRejected {
			e.Omitted = len(plan.Rejected) - maxRejected
			break
		}
		e.Rejected = append(e.Rejected, Rejected{r.Artifact.Digest, r.Format, r.Reason, r.Detail})
	}
}

func bytesOf(descriptors []ocispec.Descriptor) int64 {
	var sum int64
	for _, d := range descriptors {
		sum += d.Size
	}
	return sum
}

// bounded returns e with its texts clipped.
func (e Entry) bounded() Entry {
	e.Reference, e.Sentence = clip(e.Reference), clip(e.Sentence)
	e.Format, e.Volume = clip(e.Format), clip(e.Volume)
	e.Policy, e.Signer = clip(e.Policy), clip(e.Signer)
	if e.Forward != nil {
		e.Forward = &Forward{Error: clip(e.Forward.Error)}
	}
	materialised := make([]Materialised, 0, len(e.Materialised))
	for _, m := range e.Materialised {
		materialised = append(materialised, Materialised{m.Chain, clip(m.Why)})
	}
	e.Materialised = materialised
	rejected := make([]Rejected, 0, len(e.Rejected))
	for _, r := range e.Rejected {
		rejected = append(rejected, Rejected{digest.Digest(clip(string(r.Artifact))), clip(r.Format), r.Reason, clip(r.Detail)})
	}
	e.Rejected = rejected
	warnings := make([]string, 0, len(e.Warnings))
	for _, w := range e.Warnings {
		warnings = append(warnings, clip(w))
	}
	e.Warnings = warnings
	return e
}

// clip shortens text to maxText bytes at a character's border.
func clip(text string) string {
	if len(text) <= maxText {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	cut := maxText - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strings.ToValidUTF8(text[:cut], "\uFFFD") + "…"
}
