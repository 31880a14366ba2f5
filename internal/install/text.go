package install

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/aymanbagabas/go-udiff"
)

// WriteText says what is to be done, with a diff of every text that changes.
func (p *Plan) WriteText(w io.Writer) error {
	var out strings.Builder
	for _, c := range p.Changes {
		describe(&out, c.Path, c.What, c.Before, c.After)
	}
	if len(p.Changes) == 0 {
		out.WriteString("nothing to do: this node has all of it\n")
	}
	notes(&out, p.Notes)
	_, err := io.WriteString(w, out.String())
	return err
}

// WriteText says what is to be done, with a diff of every text that changes.
func (l *Leave) WriteText(w io.Writer) error {
	var out strings.Builder
	for _, s := range l.Steps {
		describe(&out, s.Path, s.What, s.Now, s.Then)
	}
	if !l.Installed() {
		fmt.Fprintf(&out, "nothing to do: there is no %s on this node\n", recordFile)
	}
	notes(&out, l.Notes)
	_, err := io.WriteString(w, out.String())
	return err
}

func notes(out *strings.Builder, all []string) {
	for _, note := range all {
		fmt.Fprintf(out, "note    %s\n", note)
	}
}

func describe(out *strings.Builder, path, what string, now, then State) {
	verb := "change"
	switch {
	case now.Kind == Absent:
		verb = "create"
	case then.Kind == Absent && now.Kind == Directory:
		verb, what = "remove", "if nothing else is in it"
	case then.Kind == Absent:
		verb = "remove"
	}
	if then.Kind == Link {
		what = "a link to " + string(then.Data) + ": " + what
	}
	fmt.Fprintf(out, "%s  %s (%s)\n", verb, path, what)
	if verb != "change" || !isText(now.Data) || !isText(then.Data) {
		return
	}
	for line := range strings.Lines(udiff.Unified(path, path, string(now.Data), string(then.Data))) {
		out.WriteString("        " + line)
	}
}

// isText tells whether somebody would want to see the bytes.
func isText(data []byte) bool {
	const enough = 512
	return bytes.IndexByte(data[:min(len(data), enough)], 0) < 0
}
