package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/e2e/documents"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/negotiate"
)

// TestDocumentedPublishing runs what the documents tell who publishes to type, document
// by document, against a registry that keeps lists of referrers and one that does not.
func TestDocumentedPublishing(t *testing.T) {
	t.Parallel()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := documents.Of(root, documents.Publish)
	if err != nil {
		t.Fatal(err)
	}
	expect := map[string]func(*builder, *testing.T){
		"README.md": (*builder).expectShown, "docs/formats.md": (*builder).expectDisk, "docs/publishing.md": (*builder).expectPublished,
	}
	for name, start := range map[string]func(*testing.T) place{"referrers API": withAPI, "docker-registry": distribution} {
		for document, check := range expect {
			if document == "README.md" && name == "docker-registry" {
				continue // it never knew the ORAS artifacts that one line makes
			}
			t.Run(name+" "+document, func(t *testing.T) {
				t.Parallel()
				b := newBuilder(t, start(t))
				for i := range blocks {
					if blocks[i].Document == document {
						b.run(t, &blocks[i])
					}
				}
				check(b, t)
			})
		}
	}
	for i := range blocks {
		if expect[blocks[i].Document] == nil {
			t.Errorf("%s: nobody says what comes of it", &blocks[i])
		}
	}
}

// builder is a machine that publishes: a folder with programs, an image in a layout and
// a tree beside it, and the same image in a registry under the names of the documents.
type builder struct {
	place

	dir       string
	env       []string
	inspected string // what the last inspection said
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
	if _, err := oras.Copy(t.Context(), store, "tiny", layout, "app", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"app", "team/app", "team/disk"} {
		if _, err := oras.Copy(t.Context(), store, "tiny", p.repository(t, repository), "1", oras.DefaultCopyOptions); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(b.dir, "rootfs"), 0o755); err != nil { //nolint:gosec // the root of an image
		t.Fatal(err)
	}
	write(t, filepath.Join(b.dir, "rootfs", "file"), "of the tree\n")
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

// run runs a block with the registry in the place of the document's.
func (b *builder) run(t *testing.T, block *documents.Block) {
	t.Helper()
	if strings.Contains(block.Script, "trace export") {
		b.pretendStart(t)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", strings.ReplaceAll(block.Script, "registry.example", b.host))
	cmd.Dir, cmd.Env = b.dir, b.env
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v:\n%s\n%s", block, err, block.Script, said)
	}
	if strings.Contains(block.Script, "inspect") {
		b.inspected = string(said)
	}
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

// expectPublished wants what docs/publishing.md promises.
func (b *builder) expectPublished(t *testing.T) {
	t.Helper()
	if !strings.Contains(b.inspected, "* overlaybd: would be used") {
		t.Errorf("the signed form would not be used:\n%s", b.inspected)
	}
	for tag, format := range map[string]string{"1-esgz": "estargz", "1-zstd": "zstdchunked", "1-fast": "estargz"} {
		if p := plan(t, b.ref("team/app", tag), negotiate.Rules{}); !p.Lazy() || p.Chosen.Format != format {
			t.Errorf("%s: a node finds %+v: %s", tag, p.Chosen, p.Detail)
		}
	}
	for _, format := range []string{"overlaybd", "soci", "erofs", "disk"} {
		b.expectForm(t, "team/app", format)
	}
}

// expectShown wants what the README promises.
func (b *builder) expectShown(t *testing.T) {
	t.Helper()
	b.expectForm(t, "app", "overlaybd")
	if !strings.Contains(b.inspected, b.ref("team/app", "1")+"\nlinux/amd64, ") {
		t.Errorf("inspect shows\n%s", b.inspected)
	}
}

// expectDisk wants the disk that docs/formats.md makes.
func (b *builder) expectDisk(t *testing.T) {
	t.Helper()
	b.expectForm(t, "team/disk", "disk")
}

// expectForm fails unless a node finds a form of the format for the image.
func (b *builder) expectForm(t *testing.T, repository, format string) {
	t.Helper()
	if p := plan(t, b.ref(repository, "1"), negotiate.Rules{Formats: []string{format}}); !p.Lazy() {
		t.Errorf("%s: a node finds no %s: %s", repository, format, p.Detail)
	}
}
