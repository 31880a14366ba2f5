package negotiate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

const (
	typeNative = "application/vnd.containerd.overlaybd.native.v1+json"
	typeTurbo  = "application/vnd.containerd.overlaybd.turbo.v1+json"
	typeAzure  = "application/vnd.azure.artifact.streaming.v1"
	typeDADI   = "dadi.image.v1"
	prefix     = "containerd.io/snapshot/overlaybd/"
)

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

// newNegotiator reads no host configuration of the machine.
func newNegotiator(t *testing.T, opts negotiate.Options) *negotiate.Negotiator {
	t.Helper()
	opts.Client = registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	n := negotiate.New(opts)
	t.Cleanup(func() {
		n.Close()
		_ = opts.Client.Close()
	})
	return n
}

// onlyOverlaybd is a node that has a reader for overlaybd alone.
func onlyOverlaybd(format string) error {
	if format != "overlaybd" {
		return reason.Errorf(reason.NotAttachable, "this node has no reader for %s", format)
	}
	return nil
}

// plan makes a plan that has to succeed.
func plan(t *testing.T, n *negotiate.Negotiator, ref string) *negotiate.Plan {
	t.Helper()
	p, err := n.Plan(t.Context(), negotiate.Request{Reference: ref, Platform: amd64})
	if err != nil {
		t.Fatalf("plan %s: %v", ref, err)
	}
	return p
}

func putImage(t *testing.T, reg *regtest.Registry, repo, tag string, spec regtest.ImageSpec) *regtest.Image {
	t.Helper()
	if spec.Platform == nil {
		spec.Platform = amd64
	}
	img, err := reg.PutImage(repo, tag, spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// form describes an accelerated form to be attached; change edits its manifest
// before it is stored.
type form struct {
	artifactType string
	layers       int
	trace        bool // an acceleration layer on top
	orasPush     bool // as an ORAS artifact manifest
	created      string
	seed         string
	change       func(m map[string]any)
}

func layer(name string, trace bool) ocispec.Descriptor {
	content := []byte("layer " + name)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}
	d.Annotations = map[string]string{
		prefix + "blob-digest": d.Digest.String(), prefix + "blob-size": fmt.Sprint(d.Size),
	}
	if trace {
		d.Annotations[prefix+"acceleration-layer"] = "yes"
	}
	return d
}

// manifest builds the form's manifest with its config stored.
func (f form) manifest(t testing.TB, reg *regtest.Registry, subject *ocispec.Descriptor) (mediaType string, m map[string]any) {
	t.Helper()
	var layers []ocispec.Descriptor
	config := ocispec.Image{Platform: *amd64, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range f.layers {
		layers = append(layers, layer(fmt.Sprint(f.seed, i), false))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layers[i].Digest)
	}
	if f.trace {
		layers = append(layers, layer(f.seed+"trace", true))
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	configDesc, err := reg.PutBlob(ocispec.MediaTypeImageConfig, raw)
	if err != nil {
		t.Fatal(err)
	}
	m = map[string]any{"artifactType": f.artifactType}
	if subject != nil {
		m["subject"] = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	if f.orasPush {
		mediaType = regtest.MediaTypeORASArtifact
		m["blobs"] = append([]ocispec.Descriptor{configDesc}, layers...)
	} else {
		mediaType = ocispec.MediaTypeImageManifest
		m["schemaVersion"], m["config"], m["layers"] = 2, configDesc, layers
	}
	m["mediaType"] = mediaType
	if f.created != "" {
		m["annotations"] = map[string]string{ocispec.AnnotationCreated: f.created}
	}
	if f.change != nil {
		f.change(m)
	}
	return mediaType, m
}

// attach stores the form as a referrer of subject.
func (f form) attach(t testing.TB, reg *regtest.Registry, repo string, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	mediaType, m := f.manifest(t, reg, &subject)
	d, err := reg.PutJSON(repo, "", mediaType, m)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func legacy(mode negotiate.LegacyMode) negotiate.Policy {
	return negotiate.Uniform(negotiate.Rules{LegacyORAS: mode})
}

// requests are the logged requests as "METHOD path?query", without digests' tails.
func requests(reg *regtest.Registry) []string {
	var list []string
	for _, e := range reg.Requests() {
		line := e.Path
		if e.Query != "" {
			line += "?" + e.Query
		}
		list = append(list, line)
	}
	return list
}

func TestPlanChoosesTheAttachedForm(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{Layers: 3})
	want := form{artifactType: typeNative, layers: 3, trace: true}.attach(t, reg, "app", img.Descriptor)
	p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))

	if !p.Lazy() || p.Reason != reason.None {
		t.Fatalf("nothing chosen: %s: %s", p.Reason, p.Detail)
	}
	c := p.Chosen
	if c.Artifact.Digest != want.Digest || c.Format != "overlaybd" || c.Found != negotiate.FoundReferrersAPI || c.Fit != negotiate.FitLayers {
		t.Errorf("chosen %+v", c)
	}
	if len(c.Layers) != 3 || len(c.Tables) != 1 {
		t.Errorf("%d layers, %d tables", len(c.Layers), len(c.Tables))
	}
	if got, want := fmt.Sprint(p.Image.ChainIDs), fmt.Sprint(img.ChainIDs); got != want {
		t.Errorf("chain IDs %s, want %s", got, want)
	}
	for _, d := range []ocispec.Descriptor{p.Image.Manifest, p.Image.Config} {
		if content, ok := p.Image.Documents[d.Digest]; !ok || digest.FromBytes(content) != d.Digest {
			t.Errorf("document %s is missing or wrong", d.Digest)
		}
	}
}

func TestPlanTakesThreeRoundTrips(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1"))
	log := reg.Requests()
	if len(log) != 4 {
		t.Fatalf("requests %q", requests(reg))
	}
	// The log is in the order of the answers: that of the config may come at any
	// time after the image's manifest.
	at := func(part string) int {
		return slices.IndexFunc(log, func(e regtest.Entry) bool { return strings.Contains(e.Path, part) })
	}
	image, list, artifact, config := at("/manifests/1"), at("/referrers/"), at("/manifests/sha256:"), at("/blobs/")
	if image != 0 || list < 1 || artifact < list || config < 1 {
		t.Errorf("requests %q", requests(reg))
	}
}

func TestConfigAndReferrersAreAskedTogether(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	putImage(t, reg, "app", "1", regtest.ImageSpec{})
	config, list := hang(reg, "/blobs/"), hang(reg, "/referrers/")
	planUntil(t, reg, config, list)
}

// planUntil plans for app:1 until all of asked are closed.
func planUntil(t *testing.T, reg *regtest.Registry, asked ...<-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	n := newNegotiator(t, negotiate.Options{})
	go func() { // awaited below
		_, err := n.Plan(ctx, negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
		done <- err
	}()
	for _, one := range asked {
		<-one
	}
	cancel()
	if err := <-done; reason.Of(err) != reason.Cancelled {
		t.Errorf("got %v, want the cancellation", err)
	}
}

// hang lets requests for path hang; the channel is closed when the first one does.
func hang(reg *regtest.Registry, path string) <-chan struct{} {
	reg.Inject(regtest.Fault{Match: regtest.Path(path), Hang: true})
	return struck(reg, path)
}

// struck returns a channel that is closed when path is asked for.
func struck(reg *regtest.Registry, path string) <-chan struct{} {
	asked, match := make(chan struct{}), regtest.Path(path)
	var once sync.Once
	reg.Inject(regtest.Fault{Match: func(req *http.Request) bool {
		if match(req) {
			once.Do(func() { close(asked) })
		}
		return false
	}})
	return asked
}

// TestReferrersOfAnIndexsManifestAreAskedWhileItIsFetched holds both back until both are asked for.
func TestReferrersOfAnIndexsManifestAreAskedWhileItIsFetched(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "", regtest.ImageSpec{})
	if _, err := reg.PutIndex("app", "1", img); err != nil {
		t.Fatal(err)
	}
	manifest, list := hang(reg, "/manifests/"+img.Descriptor.Digest.String()), hang(reg, "/referrers/"+img.Descriptor.Digest.String())
	planUntil(t, reg, manifest, list)
}

// BenchmarkPlan10msLink plans for images behind 10 ms a request, on a warm connection.
func BenchmarkPlan10msLink(b *testing.B) {
	for _, multi := range []bool{false, true} {
		b.Run(map[bool]string{false: "single", true: "multi"}[multi], func(b *testing.B) {
			reg := regtest.New(b, regtest.Options{})
			img, err := reg.PutImage("app", "1", regtest.ImageSpec{Platform: amd64})
			if err != nil {
				b.Fatal(err)
			}
			if multi {
				if _, err := reg.PutIndex("app", "1", img); err != nil {
					b.Fatal(err)
				}
			}
			form{artifactType: typeNative, layers: 2}.attach(b, reg, "app", img.Descriptor)
			client := registry.New(registry.Options{HostDirs: []string{b.TempDir()}})
			b.Cleanup(func() { _ = client.Close() })
			request := negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64}
			run := func() { // nothing remembered but connections
				p, err := negotiate.New(negotiate.Options{Client: client}).Plan(b.Context(), request)
				if err != nil || !p.Lazy() {
					b.Fatalf("%v %v", p, err)
				}
			}
			run()
			reg.Inject(regtest.Fault{Latency: 10 * time.Millisecond})
			for b.Loop() {
				run()
			}
		})
	}
}
