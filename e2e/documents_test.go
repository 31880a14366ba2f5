package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/documents"
	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
)

// documented are the blocks that a runner runs, by document.
func documented(t *testing.T, runner string) map[string][]documents.Block {
	t.Helper()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	all, err := documents.Of(root, runner)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string][]documents.Block{}
	for i := range all {
		by[all[i].Document] = append(by[all[i].Document], all[i])
	}
	return by
}

// TestDocumentedOnNode types, on a node of its own for each document, what the document
// tells an operator to type. The node has pulled an image lazily. What install and
// uninstall change is a tree, which sees the node's own folder.
func TestDocumentedOnNode(t *testing.T) {
	t.Parallel()
	for document, blocks := range documented(t, documents.Node) {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			for i := range blocks {
				o.follow(t, &blocks[i])
			}
		})
	}
}

// refereeHere is the operator's program: the binary with the node's configuration, and
// the tree as the node that is changed.
const refereeHere = `#!/bin/sh
verb=$1
shift
case $verb in
install | uninstall) exec %[1]s --config %[2]s "$verb" --root %[3]s --no-start "$@" ;;
esac
exec %[1]s --config %[2]s "$verb" "$@"
`

// operator is somebody at a shell of a node.
type operator struct {
	*bed

	dir, tree string
	kubelet   string // the configuration, before anything was installed
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{bed: newBed(t, node.Options{}, ""), dir: t.TempDir()}
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	o.pushOriginal(t, layout)
	image := readLayout(t, layout, "tiny")
	if _, err := o.registry.PutManifest("team/app", "1", image.descriptor.MediaType, image.bytes); err != nil {
		t.Fatal(err)
	}
	ref := o.registry.Ref("team/app", "1")
	o.command.run(t, "convert", ref, "--temp-dir", t.TempDir())
	o.pull(t, ref, fallback.Lazy)
	o.tree = o.newTree(t)
	o.kubelet = readText(t, o.kubeletFile())
	program := fmt.Sprintf(refereeHere, o.binary, o.config, o.tree)
	if err := os.WriteFile(filepath.Join(o.dir, "referee"), []byte(program), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return o
}

func (o *operator) kubeletFile() string { return filepath.Join(o.tree, "var/lib/kubelet/config.yaml") }

// follow types a block, line by line, and looks at what came of it.
func (o *operator) follow(t *testing.T, b *documents.Block) {
	t.Helper()
	for _, line := range b.Lines() {
		said := o.enter(t, b, line)
		typed, _, _ := strings.Cut(line, "#")
		words := strings.Fields(typed)
		if words[0] != "referee" || slices.Contains(words, "--dry-run") {
			continue
		}
		switch words[1] {
		case "install":
			if text := readText(t, o.kubeletFile()); !strings.Contains(text, "\nimageServiceEndpoint: unix://") {
				t.Errorf("%s: after %q the kubelet's configuration is\n%s", b, line, text)
			}
		case "uninstall":
			if text := readText(t, o.kubeletFile()); text != o.kubelet {
				t.Errorf("%s: after %q the kubelet's configuration is\n%s", b, line, text)
			}
			o.end(t, o.referee.Stop) // systemd's work, which a tree does not have
		case "explain":
			missing := b.Unsaid(said)
			if missing = slices.DeleteFunc(missing, func(label string) bool { return label == "verified by" }); len(missing) > 0 { // this form is not signed
				t.Errorf("%s: %q does not say %q:\n%s", b, line, missing, said)
			}
		case "report":
			expectFile(t, filepath.Join(o.dir, "report.html"), "<html")
		}
	}
}

// enter runs one line, with the names of the node in the place of the document's. The
// doctor may find this machine degraded: nothing on it is a kubelet.
func (o *operator) enter(t *testing.T, b *documents.Block, line string) string {
	t.Helper()
	const degraded = 2
	typed := strings.NewReplacer("registry.example", o.registry.Host(), "/run/referee", filepath.Join(o.Dir(), "referee-state")).Replace(line)
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", typed)
	cmd.Dir, cmd.Env = o.dir, append(os.Environ(), "PATH="+o.dir+":"+os.Getenv("PATH"))
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == degraded && strings.HasPrefix(line, "referee doctor") {
		err = nil
	}
	if err != nil || len(said) == 0 {
		t.Fatalf("%s: %q: %v\n%s", b, line, err, said)
	}
	return string(said)
}

func expectFile(t *testing.T, path, want string) {
	t.Helper()
	if text := readText(t, path); !strings.Contains(text, want) {
		t.Errorf("%s has no %q:\n%.200s", filepath.Base(path), want, text)
	}
}

// TestDocumentedInCheckout runs what the documents tell somebody with the source to type.
func TestDocumentedInCheckout(t *testing.T) {
	t.Parallel()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, blocks := range documented(t, documents.Checkout) {
		for i := range blocks {
			b := &blocks[i]
			for _, line := range b.Lines() {
				typed, _, _ := strings.Cut(line, "#")
				typed = strings.TrimSpace(typed)
				if _, done := said[typed]; !done && strings.HasPrefix(typed, "make ") {
					cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", typed)
					cmd.Dir, cmd.Env = root, slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") })
					out, err := cmd.CombinedOutput()
					if err != nil {
						t.Fatalf("%s: %q: %v\n%s", b, typed, err, out)
					}
					said[typed] = string(out)
				}
			}
			expectTranscript(t, b, said)
		}
	}
}

// expectTranscript compares a transcript's labels with what its first command said. Its
// other commands are those that the first one runs and shows.
func expectTranscript(t *testing.T, b *documents.Block, said map[string]string) {
	t.Helper()
	if b.Language != "console" {
		return
	}
	lines := b.Lines()
	answer := said[lines[0]]
	for _, line := range lines[1:] {
		if !strings.Contains(answer, "\n$ "+line+"\n") {
			t.Errorf("%s: %q does not run %q:\n%s", b, lines[0], line, answer)
		}
	}
	if missing := b.Unsaid(answer); len(missing) > 0 {
		t.Errorf("%s: %q does not say %q:\n%s", b, lines[0], missing, answer)
	}
}
