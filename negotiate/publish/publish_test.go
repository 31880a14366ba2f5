package publish_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish"
)

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

func plan(t *testing.T, ref string, mode negotiate.LegacyMode) *negotiate.Plan {
	t.Helper()
	client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
	t.Cleanup(func() { _ = client.Close() })
	n := negotiate.New(negotiate.Options{Client: client, Policy: negotiate.Uniform(negotiate.Rules{LegacyORAS: mode})})
	t.Cleanup(n.Close)
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
		p, err := n.Plan(t.Context(), negotiate.Request{Reference: ref, Platform: amd64})
		if err != nil {
			t.Fatal(err)
		}
		// In that mode the first pull finds out, and a later one knows.
		if p.Lazy() || mode != negotiate.LegacyAuto || time.Now().After(deadline) {
			return p
		}
	}
}

func file(t *testing.T, content string) publish.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return publish.File{Path: path, Descriptor: ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}}
}

// formOf makes a form of an image with the given config, one layer for each of its own.
func formOf(t *testing.T, source ocispec.Descriptor, config []byte, seed string) publish.Form {
	t.Helper()
	var parsed ocispec.Image
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	f := publish.Form{Source: source}
	var diffIDs []digest.Digest
	for i := range parsed.RootFS.DiffIDs {
		f.Layers = append(f.Layers, file(t, fmt.Sprintf("%s layer %d", seed, i)))
		diffIDs = append(diffIDs, f.Layers[i].Digest)
	}
	trace := file(t, seed+" trace")
	f.Prefetch = &trace
	var err error
	if f.Config, err = publish.Config(config, diffIDs); err != nil {
		t.Fatal(err)
	}
	return f
}

func putImage(t *testing.T, reg *regtest.Registry, tag string, platform *ocispec.Platform) *regtest.Image {
	t.Helper()
	img, err := reg.PutImage("app", tag, regtest.ImageSpec{Layers: 3, Platform: platform})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPushedFormIsFound pushes to registries of every kind and asks a reader.
func TestPushedFormIsFound(t *testing.T) {
	t.Parallel()
	lies := func(reg *regtest.Registry) { // claims the API, answers 404
		reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Status: http.StatusNotFound})
	}
	forgets := func(reg *regtest.Registry) { // claims the API, lists nothing
		reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/", http.MethodGet), Rewrite: func([]byte) []byte {
			return []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		}})
	}
	for name, tc := range map[string]struct {
		features regtest.Features
		setup    func(*regtest.Registry)
		opts     publish.Options
		mode     negotiate.LegacyMode
		want     negotiate.Discovery
		tag      bool // the fallback tag is there
	}{
		"referrers API":                       {features: regtest.Features{Referrers: true}, want: negotiate.FoundReferrersAPI},
		"no API":                              {features: regtest.Features{}, want: negotiate.FoundTagSchema, tag: true},
		"API claimed but absent":              {features: regtest.Features{Referrers: true}, setup: lies, want: negotiate.FoundTagSchema, tag: true},
		"API that forgets":                    {features: regtest.Features{Referrers: true}, setup: forgets, tag: true},
		"ORAS, second endpoint":               {features: regtest.Features{ORASPush: true, ORASv2: true}, opts: publish.Options{LegacyORAS: true}, mode: negotiate.LegacyOn, want: negotiate.FoundORASv2},
		"ORAS, first endpoint":                {features: regtest.Features{ORASPush: true, ORASv1: true}, opts: publish.Options{LegacyORAS: true}, mode: negotiate.LegacyOn, want: negotiate.FoundORASv1},
		"ORAS without endpoints":              {features: regtest.Features{ORASPush: true}, opts: publish.Options{LegacyORAS: true}, want: negotiate.FoundTagSchema, tag: true},
		"ORAS endpoints found automatically":  {features: regtest.Features{ORASPush: true, ORASv1: true, ORASv2: true}, opts: publish.Options{LegacyORAS: true}, mode: negotiate.LegacyAuto, want: negotiate.FoundORASv2},
		"ORAS form where only OCI is indexed": {features: regtest.Features{ORASPush: true, Referrers: true}, opts: publish.Options{LegacyORAS: true}, tag: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			if tc.setup != nil {
				tc.setup(reg)
			}
			img := putImage(t, reg, "1", amd64)
			form := formOf(t, img.Descriptor, img.ConfigRaw, name)
			pushed, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, tc.opts)
			if err != nil {
				t.Fatal(err)
			}
			tag := strings.Replace(img.Descriptor.Digest.String(), ":", "-", 1)
			resp, err := http.Get(reg.URL() + "/v2/app/manifests/" + tag) //nolint:noctx // a test's own question
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := resp.StatusCode == http.StatusOK; got != tc.tag {
				t.Errorf("fallback tag present: %t, want %t", got, tc.tag)
			}
			if tc.want == "" {
				return // listed for readers who look at the tag only
			}
			p := plan(t, reg.Ref("app", "1"), tc.mode)
			if !p.Lazy() {
				t.Fatalf("not found: %s: %s", p.Reason, p.Detail)
			}
			if p.Chosen.Artifact.Digest != pushed.Digest || p.Chosen.Found != tc.want {
				t.Errorf("found %s by %s, want %s by %s", p.Chosen.Artifact.Digest, p.Chosen.Found, pushed.Digest, tc.want)
			}
			var layers []digest.Digest
			for _, l := range form.Layers {
				layers = append(layers, l.Digest)
			}
			var got []digest.Digest
			for _, l := range p.Chosen.Layers {
				got = append(got, l.Digest)
			}
			if diff := cmp.Diff(layers, got); diff != "" {
				t.Errorf("layers (-pushed +found):\n%s", diff)
			}
			if len(p.Chosen.Tables) != 1 || p.Chosen.Tables[0].Digest != form.Prefetch.Digest {
				t.Errorf("tables %+v, want the acceleration layer", p.Chosen.Tables)
			}
		})
	}
}

func TestPushIsIdempotentAndDeterministic(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		features regtest.Features
		opts     publish.Options
	}{
		"API":        {regtest.Features{Referrers: true}, publish.Options{}},
		"tag":        {regtest.Features{}, publish.Options{}},
		"ORAS":       {regtest.Features{ORASPush: true}, publish.Options{LegacyORAS: true}},
		"fixed time": {regtest.Features{Referrers: true}, publish.Options{Created: time.Unix(1700000000, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &tc.features})
			img := putImage(t, reg, "1", amd64)
			form := formOf(t, img.Descriptor, img.ConfigRaw, name)
			var digests []digest.Digest
			for range 2 {
				reg.ResetRequests()
				d, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, tc.opts)
				if err != nil {
					t.Fatal(err)
				}
				digests = append(digests, d.Digest)
			}
			if digests[0] != digests[1] {
				t.Errorf("two pushes gave %v", digests)
			}
			uploads, _ := reg.Count(func(e regtest.Entry) bool { return e.Method == http.MethodPost })
			tags, _ := reg.Count(func(e regtest.Entry) bool {
				return e.Method == http.MethodPut && strings.Contains(e.Path, "/manifests/sha256-")
			})
			if uploads != 0 || tags != 0 {
				t.Errorf("second push uploaded %d blobs and wrote %d tags", uploads, tags)
			}
		})
	}
}

func TestPushIndexAttachesEveryPlatform(t *testing.T) {
	t.Parallel()
	arm := &ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	reg := regtest.New(t, regtest.Options{})
	var entries []publish.Entry
	images := []*regtest.Image{putImage(t, reg, "", arm), putImage(t, reg, "", amd64)}
	index, err := reg.PutIndex("app", "multi", images...)
	if err != nil {
		t.Fatal(err)
	}
	repo := regtest.Repository(t, reg.Host(), "app")
	for i, img := range images {
		d, err := publish.Push(t.Context(), repo, formOf(t, img.Descriptor, img.ConfigRaw, fmt.Sprint(i)), publish.Options{})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, publish.Entry{Source: img.Descriptor, Converted: d})
	}
	if _, err := publish.PushIndex(t.Context(), repo, index, publish.ArtifactTypeNative, entries, publish.Options{}); err != nil {
		t.Fatal(err)
	}
	if p := plan(t, reg.Ref("app", "multi"), negotiate.LegacyOff); !p.Lazy() || p.Chosen.Subject != images[1].Descriptor.Digest {
		t.Errorf("by manifest: %s %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
	}
	// A registry that lost the list of the manifest still has that of the index.
	reg.Inject(regtest.Fault{
		Match:  regtest.Path("/referrers/" + images[1].Descriptor.Digest.String()),
		Status: http.StatusOK, Header: http.Header{"Content-Type": {ocispec.MediaTypeImageIndex}},
		Body: []byte(`{"schemaVersion":2,"manifests":null}`),
	})
	p := plan(t, reg.Ref("app", "multi"), negotiate.LegacyOff)
	if !p.Lazy() || p.Chosen.Subject != index.Digest || p.Chosen.Artifact.Digest != entries[1].Converted.Digest {
		t.Errorf("by index: %s %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
	}
}

// TestORASFormIsThatOfTheExample takes the published example apart and has it put
// together again.
func TestORASFormIsThatOfTheExample(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(testdata.Dir(t, "redis-example"), "artifact.json"))
	if err != nil {
		t.Fatal(err)
	}
	var example struct {
		Subject ocispec.Descriptor   `json:"subject"`
		Blobs   []ocispec.Descriptor `json:"blobs"`
	}
	if err := json.Unmarshal(raw, &example); err != nil {
		t.Fatal(err)
	}
	want := &bytes.Buffer{}
	if err := json.Compact(want, raw); err != nil {
		t.Fatal(err)
	}
	// The config's bytes are not part of the example: ours stand in for them.
	config := []byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`)
	wanted := strings.Replace(want.String(), example.Blobs[0].Digest.String(), digest.FromBytes(config).String(), 1)
	wanted = strings.Replace(wanted, fmt.Sprintf(`"size":%d}`, example.Blobs[0].Size), fmt.Sprintf(`"size":%d}`, len(config)), 1)

	form := publish.Form{Source: example.Subject, Config: config, ConfigMediaType: example.Blobs[0].MediaType}
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASPush: true, ORASv1: true}})
	for _, blob := range example.Blobs[1:] {
		f := publish.File{Descriptor: ocispec.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size}}
		f.Path = filepath.Join(t.TempDir(), "sparse")
		if err := os.WriteFile(f.Path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f.Path, blob.Size); err != nil {
			t.Fatal(err)
		}
		// The registry says that it has the blob: its bytes are not part of the example either.
		reg.Inject(regtest.Fault{
			Match: regtest.Path("/blobs/"+blob.Digest.String(), http.MethodHead), Status: http.StatusOK,
			Header: http.Header{"Content-Length": {fmt.Sprint(blob.Size)}},
		})
		if blob.Annotations["containerd.io/snapshot/overlaybd/acceleration-layer"] == "yes" {
			form.Prefetch = &f
		} else {
			form.Layers = append(form.Layers, f)
		}
	}
	pushed, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "redis"), form, publish.Options{LegacyORAS: true})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(reg.URL() + "/v2/redis/manifests/" + pushed.Digest.String()) //nolint:noctx // a test's own question
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got := &bytes.Buffer{}
	if _, err := got.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got.String()); diff != "" {
		t.Errorf("manifest (-example +pushed):\n%s", diff)
	}
}

func TestPushRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "1", amd64)
	for name, change := range map[string]func(*publish.Form){
		"no layers":           func(f *publish.Form) { f.Layers = nil },
		"no config":           func(f *publish.Form) { f.Config = nil },
		"no source":           func(f *publish.Form) { f.Source = ocispec.Descriptor{} },
		"file of other size":  func(f *publish.Form) { f.Layers[0].Size++ },
		"file of other bytes": func(f *publish.Form) { f.Layers[0].Digest = digest.FromString("other") },
		"file is absent":      func(f *publish.Form) { f.Layers[0].Path += ".gone" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			form := formOf(t, img.Descriptor, img.ConfigRaw, name)
			change(&form)
			if _, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, publish.Options{}); err == nil {
				t.Fatal("pushed")
			}
			if p := plan(t, reg.Ref("app", "1"), negotiate.LegacyOff); p.Reason != reason.NoReferrers {
				t.Errorf("something was attached: %s", p.Reason)
			}
		})
	}
}

func TestForeignFallbackTagIsLeftAlone(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASPush: true}})
	img := putImage(t, reg, "1", amd64)
	putImage(t, reg, strings.Replace(img.Descriptor.Digest.String(), ":", "-", 1), amd64)
	for name, opts := range map[string]publish.Options{"OCI": {}, "ORAS": {LegacyORAS: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			form := formOf(t, img.Descriptor, img.ConfigRaw, name)
			if _, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, opts); err == nil {
				t.Error("an image under the fallback tag was taken for a list")
			}
		})
	}
}

func TestProgressEndsOnceForEachPart(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "1", amd64)
	var mu sync.Mutex
	done := map[digest.Digest]int{}
	form := formOf(t, img.Descriptor, img.ConfigRaw, "p")
	form.Layers = append(form.Layers, form.Layers[0]) // one digest twice is one blob
	_, err := publish.Push(t.Context(), regtest.Repository(t, reg.Host(), "app"), form, publish.Options{Progress: func(e publish.Event) {
		if !mu.TryLock() {
			t.Error("two callbacks at once")
			return
		}
		defer mu.Unlock()
		if e.Done {
			done[e.Descriptor.Digest]++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 6 { // three layers, trace, config, manifest
		t.Errorf("%d parts ended: %v", len(done), done)
	}
	for d, n := range done {
		if n != 1 {
			t.Errorf("%s ended %d times", d, n)
		}
	}
}

func TestConfigKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	got, err := publish.Config([]byte(`{"os":"linux","x":{"b":1,"a":[2]},"rootfs":{"type":"layers","diff_ids":["sha256:0"],"y":3}}`), []digest.Digest{"sha256:1"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"os":"linux","rootfs":{"diff_ids":["sha256:1"],"type":"layers","y":3},"x":{"b":1,"a":[2]}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{`[]`, `{}`, `{"rootfs":null}`, `{"rootfs":[]}`, ``} {
		if _, err := publish.Config([]byte(bad), nil); err == nil {
			t.Errorf("config %q was taken", bad)
		}
	}
}

// distribution runs the registry of Debian's docker-registry package, which has
// no referrers API, and returns its host.
func distribution(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only to learn a free port
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", dir, host)
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "serve", path)
	output := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: its error says so
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Get("http://" + host + "/v2/") //nolint:noctx // a test's own question
		if err == nil {
			_ = resp.Body.Close()
			return host
		}
		if time.Now().After(deadline) {
			t.Fatalf("docker-registry does not answer: %v\n%s", err, output)
		}
	}
}

func TestDistributionKeepsTheFallbackTag(t *testing.T) {
	t.Parallel()
	host := distribution(t)
	repo := regtest.Repository(t, host, "lab/app")
	source := regtest.New(t, regtest.Options{})
	img := putImage(t, source, "1", amd64)
	copyImage(t, source, repo, img)
	for i, seed := range []string{"a", "b"} {
		form := formOf(t, img.Descriptor, img.ConfigRaw, seed)
		opts := publish.Options{Created: time.Unix(1700000000+int64(i), 0)}
		pushed, err := publish.Push(t.Context(), regtest.Repository(t, host, "lab/app"), form, opts)
		if err != nil {
			t.Fatal(err)
		}
		p := plan(t, host+"/lab/app:1", negotiate.LegacyOff)
		if !p.Lazy() || p.Chosen.Artifact.Digest != pushed.Digest || p.Chosen.Found != negotiate.FoundTagSchema {
			t.Fatalf("push %s: %s %s, chosen %+v", seed, p.Reason, p.Detail, p.Chosen)
		}
		if len(p.Rejected) != i {
			t.Errorf("push %s: %d rejected, want %d", seed, len(p.Rejected), i)
		}
	}
}

// copyImage pushes an image of a test registry into another one.
func copyImage(t *testing.T, source *regtest.Registry, repo *remote.Repository, img *regtest.Image) {
	t.Helper()
	from := regtest.Repository(t, source.Host(), "app")
	for _, d := range append([]ocispec.Descriptor{img.Manifest.Config}, img.Manifest.Layers...) {
		content, err := from.Blobs().Fetch(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.Blobs().Push(t.Context(), d, content); err != nil {
			t.Fatal(err)
		}
		_ = content.Close()
	}
	content, err := json.Marshal(img.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	d := img.Descriptor
	d.Platform = nil
	if err := repo.Manifests().PushReference(t.Context(), d, bytes.NewReader(content), "1"); err != nil {
		t.Fatal(err)
	}
}
