package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/negotiate"
)

// recipe is a fenced block of shell commands of a document.
type recipe struct {
	where  string // "node" for what is run on a node, else ""
	line   int
	script string
}

var fence = regexp.MustCompile("(?s)\n```sh ?(\\w*)\n(.*?)\n```\n")

// recipes are the commands of a document, in order.
func recipes(t *testing.T, document string) (found []recipe) {
	t.Helper()
	text := string(read(t, document))
	for _, at := range fence.FindAllStringSubmatchIndex(text, -1) {
		found = append(found, recipe{text[at[2]:at[3]], strings.Count(text[:at[0]], "\n") + 2, text[at[4]:at[5]]})
	}
	return found
}

// TestPublishingRecipes runs every command of docs/publishing.md, against a registry
// that keeps lists of referrers and one that does not.
func TestPublishingRecipes(t *testing.T) {
	t.Parallel()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	all := recipes(t, filepath.Join(root, "docs", "publishing.md"))
	if len(all) < 10 {
		t.Fatalf("the document has %d recipes", len(all))
	}
	for name, start := range map[string]func(*testing.T) place{"referrers API": withAPI, "docker-registry": distribution} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuilder(t, start(t))
			for _, r := range all {
				if r.where == "node" {
					b.pretendStart(t)
				}
				began := time.Now()
				said := b.run(t, r)
				t.Logf("line %d: %s", r.line, time.Since(began))
				if strings.Contains(r.script, "inspect") && !strings.Contains(said, "* overlaybd: would be used") {
					t.Errorf("line %d: the signed form would not be used:\n%s", r.line, said)
				}
			}
			for tag, format := range map[string]string{"1-esgz": "estargz", "1-zstd": "zstdchunked", "1-fast": "estargz"} {
				if p := plan(t, b.ref("team/app", tag), negotiate.Rules{}); !p.Lazy() || p.Chosen.Format != format {
					t.Errorf("%s: a node finds %+v: %s", tag, p.Chosen, p.Detail)
				}
			}
			for _, format := range []string{"overlaybd", "soci", "erofs", "disk"} {
				if p := plan(t, b.ref("team/app", "1"), negotiate.Rules{Formats: []string{format}}); !p.Lazy() {
					t.Errorf("%s: a node finds nothing: %s", format, p.Detail)
				}
			}
		})
	}
}

// builder is a machine that publishes: a folder with programs, an image in a layout,
// and the same image in a registry, as team/app:1.
type builder struct {
	place

	dir string
	env []string
}

func newBuilder(t *testing.T, p place) *builder {
	t.Helper()
	b := &builder{place: p, dir: t.TempDir()}
	store, err := oci.NewFromFS(t.Context(), os.DirFS(filepath.Join(testdata.Dir(t, "reference"), "tiny")))
	if err != nil {
		t.Fatal(err)
	}
	layout, err := oci.New(filepath.Join(b.dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	for tag, to := range map[string]oras.Target{"app": layout, "1": p.repository(t, "team/app")} {
		if _, err := oras.Copy(t.Context(), store, "tiny", to, tag, oras.DefaultCopyOptions); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(b.dir, "node.toml"), fmt.Sprintf("version = 1\nroot = %q\n", filepath.Join(b.dir, "node")))
	referee, err := tools.Referee(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.program(t, "referee", referee+` --config node.toml "$@"`)
	b.program(t, "oras", newOras(t).path+` "$@" --plain-http`)
	b.program(t, "cosign", newCosign(t).path+` "$@"`)
	b.env = []string{
		"PATH=" + filepath.Join(b.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + b.dir, "DOCKER_CONFIG=" + b.dir, "TUF_ROOT=" + b.dir,
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "COSIGN_PASSWORD=" + cosignPassword,
	}
	return b
}

// program makes a command of the name that the document uses.
func (b *builder) program(t *testing.T, name, command string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(b.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "bin", name), []byte("#!/bin/sh\nexec "+command+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a recipe with the registry in the place of the document's.
func (b *builder) run(t *testing.T, r recipe) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", strings.ReplaceAll(r.script, "registry.example", b.host))
	cmd.Dir, cmd.Env = b.dir, b.env
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("line %d: %v:\n%s\n%s", r.line, err, r.script, said)
	}
	return string(said)
}

// pretendStart leaves behind what a node does that has started the image.
func (b *builder) pretendStart(t *testing.T) {
	t.Helper()
	ref := b.ref("team/app", "1")
	chosen := plan(t, ref, negotiate.Rules{Formats: []string{"overlaybd"}}).Chosen
	if chosen == nil {
		t.Fatal("there is no form to start from")
	}
	journal, err := fallback.OpenJournal(filepath.Join(b.dir, "node", "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := journal.Record(fallback.Entry{Time: time.Now(), Reference: ref, Outcome: fallback.Lazy, Artifact: chosen.Artifact.Digest, Format: chosen.Format}); err != nil {
		t.Fatal(err)
	}
	store, err := trace.OpenStore(filepath.Join(b.dir, "node", "traces"))
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(b.host+"/team/app", chosen.Artifact.Digest, func(tr *trace.Trace) {
		tr.Layers = traceLayers(chosen.Layers)
		tr.Ranges = []trace.Range{{Layer: 0, Offset: 0, Length: 512}}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func traceLayers(layers []ocispec.Descriptor) (named []trace.Layer) {
	for _, layer := range layers {
		named = append(named, trace.Layer{Digest: layer.Digest, Size: layer.Size})
	}
	return named
}
