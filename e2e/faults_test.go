package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// ground is a node on which one broken thing after another is pulled. Each comes
// from a registry of its own, so that nothing is remembered of the one before.
type ground struct {
	*bed
	pod    *node.Pod // all containers run in it
	blobs  string    // of all registries
	layout string
	image  layoutImage      // reference/tiny, the original
	form   ocispec.Manifest // its stock overlaybd form
	tree   treecmp.Tree
}

func newGround(t *testing.T, opts node.Options, settings string) *ground {
	t.Helper()
	reference := testdata.Dir(t, "reference")
	g := &ground{bed: newBed(t, opts, settings), blobs: t.TempDir(), layout: filepath.Join(reference, "tiny")}
	g.image = readLayout(t, g.layout, "tiny")
	g.form = readLayout(t, g.layout, "tiny-overlaybd-lz4").manifest
	g.tree = loadTree(t, "tiny.tree.jsonl")
	pod, err := g.CRI().RunPod(t.Context(), "faults")
	if err != nil {
		t.Fatal(err)
	}
	g.pod = pod
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := pod.Remove(ctx); err != nil {
			t.Errorf("remove pod: %v", err)
		}
	})
	return g
}

// trial is the original image in a registry of its own, before anything is
// attached to it.
type trial struct {
	*ground
	registry *regtest.Registry
	ref      string
	auth     *runtime.AuthConfig
	logged   int // bytes of the daemon's log when it began
}

func (g *ground) newTrial(t *testing.T) *trial {
	t.Helper()
	b := *g.bed
	b.registry = regtest.New(t, regtest.Options{Dir: g.blobs})
	on := *g
	on.bed = &b
	return &trial{
		ground: &on, registry: b.registry, ref: b.pushOriginal(t, g.layout), logged: len(g.referee.Log()),
	}
}

// stock is a copy of the stock form's manifest, its blobs being in the registry.
func (c *trial) stock(t *testing.T) ocispec.Manifest {
	t.Helper()
	form := c.form
	form.Layers = slices.Clone(form.Layers)
	for i, layer := range form.Layers {
		c.putBlob(t, c.layout, layer)
		form.Layers[i].Annotations = maps.Clone(layer.Annotations)
	}
	c.putBlob(t, c.layout, form.Config)
	subject := *form.Subject
	form.Subject = &subject
	return form
}

// attach pushes an artifact's manifest. The registry lists it by its subject.
func (c *trial) attach(t *testing.T, manifest any) ocispec.Descriptor {
	t.Helper()
	d, err := c.registry.PutJSON("tiny", "", ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// put stores a layer and returns what an artifact's manifest says of it.
func (c *trial) put(t *testing.T, layer []byte) ocispec.Descriptor {
	t.Helper()
	d, err := c.registry.PutBlob(ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		t.Fatal(err)
	}
	return describe(d)
}

// describe adds the annotations that converters write.
func describe(d ocispec.Descriptor) ocispec.Descriptor {
	const prefix = "containerd.io/snapshot/overlaybd/"
	d.Annotations = map[string]string{
		prefix + "blob-digest": d.Digest.String(), prefix + "blob-size": fmt.Sprint(d.Size), prefix + "version": "0.1.0",
	}
	return d
}

// list makes the registry list these entries as what is attached to the image,
// whatever is there.
func (c *trial) list(t *testing.T, entries ...ocispec.Descriptor) {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries}
	index.SchemaVersion = 2
	body, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	c.registry.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Rewrite: func([]byte) []byte { return body }})
}

// layerPath is the end of the paths under which a layer of the form is asked for.
func layerPath(d digest.Digest) string { return "/blobs/" + d.String() }

// outcome is what a pull through Referee has to come to.
type outcome struct {
	reason reason.Code
	says   string // part of the sentence
	within time.Duration
	whole  bool // compare the whole tree
}

// expectOrdinary pulls the image: whatever is wrong, that is an ordinary pull,
// told once in the log and once in the journal, with nothing left of the attempt.
func (c *trial) expectOrdinary(t *testing.T, want outcome) {
	t.Helper()
	started := time.Now()
	if _, err := c.lazy.Pull(t.Context(), c.ref, c.auth); err != nil {
		t.Fatalf("pull: %v", err)
	}
	entry := c.explain(t, c.ref, started)
	if entry.Outcome != fallback.Ordinary || entry.Reason != want.reason || !strings.Contains(entry.Sentence, want.says) {
		t.Errorf("pull was %s, %s: %q; want it ordinary, %s: %q", entry.Outcome, entry.Reason, entry.Sentence, want.reason, want.says)
	}
	if prepared := entry.Forward; prepared == nil || prepared.Error != "" {
		t.Errorf("containerd's part: %+v", prepared)
	}
	if len(entry.Warnings) > 0 {
		t.Errorf("warnings: %q", entry.Warnings)
	}
	if lost := time.Since(started) - entry.Steps.Forward.Duration(); want.within > 0 && lost > want.within {
		t.Errorf("the pull was delayed by %s, at most %s is allowed", lost, want.within)
	}
	c.expectToldOnce(t)
	c.expectRight(t, want.whole)
	c.expectNothingRemains(t)
	if err := c.lazy.Remove(t.Context(), c.ref); err != nil {
		t.Error(err)
	}
}

// expectToldOnce looks for the one line of the pull. Beside it there may be the
// news that a host is down or that a trust store's files have changed, and nothing else.
func (c *trial) expectToldOnce(t *testing.T) {
	t.Helper()
	var told, besides []string
	for line := range strings.Lines(c.referee.Log()[c.logged:]) {
		switch fields := strings.Split(line, "\t"); {
		case len(fields) < 4, fields[1] == "DEBUG":
		case fields[3] == "pull" && strings.Contains(line, c.ref):
			told = append(told, line)
		case fields[1] == "INFO" && fields[3] == "registry host is down" && strings.Contains(line, c.registry.Host()):
		case fields[3] == trustReadAgain || fields[3] == trustKept:
		default:
			besides = append(besides, line)
		}
	}
	if len(told) != 1 || len(besides) > 0 {
		t.Errorf("the log has %d lines of the pull, want one:\n%s\nand besides:\n%s", len(told), strings.Join(told, ""), strings.Join(besides, ""))
	}
}

// expectModest reads how much memory the daemon has ever held.
func (b *bed) expectModest(t *testing.T, limit int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.referee.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil || kib<<10 > limit {
		t.Errorf("the daemon has held %d KiB (%v), want at most %d", kib, err, limit>>10)
	}
	t.Logf("the daemon has held %d MiB at most", kib>>10)
}

// sample is a file of each layer and the largest ones.
var sample = []string{
	"/bin/busybox", "/data/random.bin", "/data/sizes/0004097.txt", "/data/many/f299", "/replace/file-to-file", "/wh/opaque/new.txt",
}

// expectRight runs a container of the image and compares what it reads.
func (c *trial) expectRight(t *testing.T, whole bool) {
	t.Helper()
	container := c.run(t, c.ref)
	defer c.end(t, func() error { return container.StopRemove(context.WithoutCancel(t.Context())) })
	c.expectSums(t, container, sample...)
	if whole {
		expectTree(t, c.tree, treeOf(t, c.Node, container), madeByRuntime...)
	}
}

// run starts a container in the ground's pod.
func (g *ground) run(t *testing.T, ref string) *node.Container {
	t.Helper()
	container, err := g.pod.Create(t.Context(), ref, []string{"/bin/busybox", "sleep", "1000"})
	if err == nil {
		err = container.Start(t.Context())
	}
	if err != nil {
		t.Fatalf("run %s: %v", ref, err)
	}
	return container
}

// expectSums lets the container itself read files of the image.
func (g *ground) expectSums(t *testing.T, container *node.Container, paths ...string) {
	t.Helper()
	var want strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&want, "%s  %s\n", g.tree[path].SHA256, path)
	}
	got, err := container.Output(t.Context(), append([]string{"/bin/busybox", "sha256sum"}, paths...)...)
	if err != nil || got != want.String() {
		t.Errorf("the container reads (%v)\n%s, want\n%s", err, got, &want)
	}
}
