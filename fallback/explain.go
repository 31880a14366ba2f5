package fallback

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/referee-cri/referee/internal/reason"
)

// latest is when the entry was last about a pull.
func (e *Entry) latest() time.Time {
	if e.RepeatedAt != nil {
		return *e.RepeatedAt
	}
	return e.Time
}

// WriteText writes the entry for a person: what was decided, why, what it took,
// and every candidate that was not taken with the reason. Control characters,
// which a registry may have put into its texts, are replaced.
func (e *Entry) WriteText(w io.Writer) error {
	var text bytes.Buffer // which takes everything, so that the one error is that of w
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	row("reference", "%s", e.Reference)
	row("pulled", "%s", e.Time.UTC().Format(time.DateTime+" MST"))
	e.writeDecision(row)
	e.writeImage(row)
	if e.Steps.Prepare > 0 {
		row("prepared", "%s before containerd was asked", rounded(e.Steps.Prepare.Duration()))
	}
	if steps := e.Steps.text(); steps != "" {
		row("took", "%s", steps)
	}
	switch {
	case e.Artifact == "":
	case e.Requests > 0:
		row("fetched", "%d bytes in %d requests while preparing", e.Fetched, e.Requests)
	default:
		row("fetched", "%d bytes while preparing", e.Fetched)
	}
	switch {
	case e.Forward == nil:
		row("containerd", "has not answered")
	case e.Forward.Error != "":
		row("containerd", "failed: %s", e.Forward.Error)
	default:
		row("containerd", "done")
	}
	if e.RepeatedAt != nil {
		row("repeated", "%d times, last %s, image in place", e.Repeated, e.RepeatedAt.UTC().Format(time.DateTime+" MST"))
	}
	for _, warning := range e.Warnings {
		row("warning", "%s", warning)
	}
	_ = t.Flush()
	e.writeRejected(&text)
	_, err := w.Write(text.Bytes())
	return err
}

func (e *Entry) writeDecision(row func(string, string, ...any)) {
	if e.Outcome == Lazy {
		row("outcome", "lazy, as %s", e.Format)
	} else {
		row("outcome", "%s", e.Outcome)
	}
	switch {
	case e.Reason == reason.None:
	case e.Sentence == "":
		row("reason", "%s", e.Reason)
	default:
		row("reason", "%s: %s", e.Reason, e.Sentence)
	}
}

func (e *Entry) writeImage(row func(string, string, ...any)) {
	if e.Config != "" {
		row("image", "%s", e.Config)
	}
	if e.Manifest != "" {
		row("manifest", "%s", e.Manifest)
	}
	if e.Artifact != "" {
		row("artifact", "%s, %s, found by %s", e.Artifact, e.Format, e.Found)
	}
	switch {
	case e.Policy != "":
		row("policy", "%s", e.Policy)
	case e.Manifest != "":
		row("policy", "built-in: no block matches the repository")
	}
	if e.Signer != "" {
		row("verified by", "%s", e.Signer)
	}
	for _, m := range e.Materialised {
		row("materialised", "%s: %s", m.Chain, m.Why)
	}
	if e.Volume != "" {
		row("volume", "%s", e.Volume)
	}
}

func (e *Entry) writeRejected(text *bytes.Buffer) {
	if len(e.Rejected) == 0 {
		return
	}
	text.WriteString("\nnot taken\n")
	t := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for _, r := range e.Rejected {
		format := r.Format
		if format == "" {
			format = "unknown"
		}
		_, _ = fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", printable(format), printable(short(r.Artifact.String())), printable(string(r.Reason)), printable(r.Detail))
	}
	if e.Omitted > 0 {
		_, _ = fmt.Fprintf(t, "  and %d more\n", e.Omitted)
	}
	_ = t.Flush()
}

// Step is one part of a pull.
type Step struct {
	Name string
	Took Seconds // 0: it was not reached
}

// List is the steps in their order. Open, mount and graft overlap, and confirm is
// a part of forward.
func (s Steps) List() []Step {
	return []Step{
		{"present", s.Present},
		{"negotiate", s.Negotiate},
		{"open", s.Open},
		{"mount", s.Mount},
		{"graft", s.Graft},
		{"shield", s.Shield},
		{"materialise", s.Materialise},
		{"forward", s.Forward},
		{"confirm", s.Confirm},
	}
}

// text lists the steps that were reached.
func (s Steps) text() string {
	var parts []string
	for _, step := range s.List() {
		if step.Took > 0 {
			parts = append(parts, step.Name+" "+rounded(step.Took.Duration()))
		}
	}
	return strings.Join(parts, ", ")
}

// rounded keeps about three digits: more say nothing.
func rounded(d time.Duration) string {
	unit := time.Microsecond
	for unit*1000 < d {
		unit *= 10
	}
	return d.Round(unit).String()
}

// short is what is enough of a digest to find it.
func short(digest string) string {
	const enough = len("sha256:") + 12
	if len(digest) > enough {
		return digest[:enough]
	}
	return digest
}

func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}
