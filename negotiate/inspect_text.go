package negotiate

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// WriteText draws the tree for a person: what is attached to what, what would be
// chosen here, and for every other form why not.
func (i *Inspection) WriteText(w io.Writer) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s\n%s, %d layers, %d bytes\n", i.Reference, i.Platform, i.Layers, i.Size)
	policy := i.Policy
	if policy == "" {
		policy = "the default"
	}
	fmt.Fprintf(&text, "policy: %s\n\n", policy)
	if i.Index != nil {
		fmt.Fprintf(&text, "index %s\n", i.Index.Descriptor.Digest)
		i.Index.draw(&text, "")
		text.WriteByte('\n')
	}
	fmt.Fprintf(&text, "manifest %s\n", i.Manifest.Descriptor.Digest)
	i.Manifest.draw(&text, "")
	text.WriteByte('\n')
	switch {
	case i.Outcome != "lazy":
		fmt.Fprintf(&text, "an ordinary pull: %s: %s\n", i.Reason, i.Detail)
	case i.Signer != nil:
		fmt.Fprintf(&text, "lazy, as %s, on the word of %s (%s, %s)\n", i.Format, i.Signer.Identity, i.Signer.Trust, i.Signer.Kind)
	default:
		fmt.Fprintf(&text, "lazy, as %s\n", i.Format)
	}
	_, err := w.Write(printable(text.Bytes()))
	return err
}

// draw writes the branches below a.
func (a *Attachment) draw(text *bytes.Buffer, indent string) {
	last := len(a.Attached) - 1
	if a.Problem != "" {
		last++
	}
	for n, child := range a.Attached {
		branch, below := "├── ", "│   "
		if n == last {
			branch, below = "└── ", "    "
		}
		fmt.Fprintf(text, "%s%s%s\n", indent, branch, child.Descriptor.Digest)
		for _, line := range child.lines() {
			fmt.Fprintf(text, "%s%s  %s\n", indent, below, line)
		}
		child.draw(text, indent+below)
	}
	if a.Problem != "" {
		fmt.Fprintf(text, "%s└── not all is known: %s\n", indent, a.Problem)
	}
}

// lines say what a is and what became of it.
func (a *Attachment) lines() []string {
	kind := a.ArtifactType
	if kind == "" {
		kind = a.Descriptor.MediaType
	}
	lines := []string{fmt.Sprintf("%s, found by %s", kind, a.Found)}
	if !a.Created.IsZero() {
		lines[0] += a.Created.UTC().Format(", made 2006-01-02 15:04")
	}
	if a.Blobs > 0 {
		lines[0] += fmt.Sprintf(", %d bytes in %d blobs", a.Size, a.Blobs)
	}
	switch {
	case a.Chosen:
		lines = append(lines, "* "+a.Format+": would be used")
	case a.Convincing:
		lines = append(lines, "* "+a.What+": convincing")
	case a.Reason != "":
		lines = append(lines, fmt.Sprintf("- %s: %s: %s", a.Format, a.Reason, a.Detail))
	case a.Format != "":
		lines = append(lines, "- "+a.Format)
	case a.What != "":
		lines = append(lines, a.What)
	}
	return lines
}

// printable replaces what a registry may have put into its texts to move the
// cursor of who reads them.
func printable(text []byte) []byte {
	return []byte(strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, string(text)))
}
