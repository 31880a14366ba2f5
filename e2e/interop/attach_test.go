package interop_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish"
)

// Annotations of overlaybd's layers (accelerated-container-image).
const (
	blobDigest   = "containerd.io/snapshot/overlaybd/blob-digest"
	blobSize     = "containerd.io/snapshot/overlaybd/blob-size"
	acceleration = "containerd.io/snapshot/overlaybd/acceleration-layer"
)

// artifact is what somebody attaches to an image with `oras attach`: files, and an
// annotation file that tells what they are.
type artifact struct {
	kind        string            // artifact type; empty: native overlaybd
	layers      int               // files, bottom first
	mediaType   string            // of the files; empty: what oras chooses
	trace       bool              // one more file, the acceleration layer
	bare        bool              // without annotations
	annotations map[string]string // added to those of file 0
	config      *ocispec.Image    // nil: none, as usual
	args        []string          // for oras
}

type annotations = map[string]string

// attach attaches the artifact and returns its digest.
func (a artifact) attach(t *testing.T, oras program, ref string) digest.Digest {
	t.Helper()
	kind := a.kind
	if kind == "" {
		kind = publish.ArtifactTypeNative
	}
	args := append([]string{
		"attach", "--plain-http", "--no-tty", "--format", "json", "--artifact-type", kind,
	}, a.args...)
	if a.config != nil {
		content, err := json.Marshal(a.config)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(oras.dir, "config.json"), string(content))
		args = append(args, "--config", "config.json:"+ocispec.MediaTypeImageConfig)
	}
	all := map[string]annotations{"$manifest": {"org.example.made-by": "hand"}}
	args = append(args, "--annotation-file", "annotations.json", ref)
	for i := range a.layers {
		name := fmt.Sprintf("layer%d", i)
		args = append(args, a.file(t, oras, name, all))
	}
	if a.trace {
		args = append(args, a.file(t, oras, "trace", all))
		all["trace"][acceleration] = "yes"
	}
	for k, v := range a.annotations {
		all["layer0"][k] = v
	}
	content, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(oras.dir, "annotations.json"), string(content))
	var made struct {
		Digest digest.Digest `json:"digest"`
	}
	out := oras.run(t, args...)
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatalf("oras attach printed %q: %v", out, err)
	}
	return made.Digest
}

// file writes a file and returns it as an argument.
func (a artifact) file(t *testing.T, oras program, name string, all map[string]annotations) string {
	t.Helper()
	content := "what is in " + name
	write(t, filepath.Join(oras.dir, name), content)
	all[name] = annotations{}
	if !a.bare {
		all[name] = annotations{blobDigest: digest.FromString(content).String(), blobSize: fmt.Sprint(len(content))}
	}
	if a.mediaType == "" {
		return name
	}
	return name + ":" + a.mediaType
}

// counts is an image config that counts layers.
func counts(layers int) *ocispec.Image {
	config := &ocispec.Image{Platform: *amd64, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString(fmt.Sprint(i)))
	}
	return config
}

// TestOrasAttachesForms attaches files by hand to an image of three layers.
func TestOrasAttachesForms(t *testing.T) {
	t.Parallel()
	const tar = ocispec.MediaTypeImageLayer
	cases := map[string]struct {
		artifact artifact
		want     reason.Code // None: it is taken
		detail   string
		fit      negotiate.Fit
	}{
		"annotated layers":                {artifact: artifact{layers: 3, mediaType: tar}, fit: negotiate.FitLayers},
		"media types left to oras":        {artifact: artifact{layers: 3}, fit: negotiate.FitLayers},
		"no annotations":                  {artifact: artifact{layers: 3, mediaType: tar, bare: true}, fit: negotiate.FitLayers},
		"with acceleration layer":         {artifact: artifact{layers: 3, mediaType: tar, trace: true}, fit: negotiate.FitLayers},
		"with config":                     {artifact: artifact{layers: 3, mediaType: tar, config: counts(3)}, fit: negotiate.FitLayers},
		"base layer below":                {artifact: artifact{layers: 4, mediaType: tar, config: counts(4)}, fit: negotiate.FitBased},
		"one layer for all":               {artifact: artifact{layers: 1, mediaType: tar, config: counts(1)}, fit: negotiate.FitFlat},
		"one layer for all, no config":    {artifact: artifact{layers: 1, mediaType: tar}, want: reason.LayerMismatch, detail: "its config has 0 diff IDs"},
		"a layer is missing":              {artifact: artifact{layers: 2, mediaType: tar}, want: reason.LayerMismatch, detail: "it has 2 layers, the image has 3"},
		"config counts other layers":      {artifact: artifact{layers: 4, mediaType: tar, config: counts(3)}, want: reason.LayerMismatch, detail: "its config has 3 diff IDs"},
		"compressed layers":               {artifact: artifact{layers: 3, mediaType: ocispec.MediaTypeImageLayerGzip}, want: reason.ArtifactInvalid, detail: "cannot be read at random"},
		"annotation of another blob":      {artifact: artifact{layers: 3, annotations: annotations{blobDigest: digest.FromString("").String()}}, want: reason.ArtifactInvalid, detail: "annotation blob-digest"},
		"annotation of another size":      {artifact: artifact{layers: 3, annotations: annotations{blobSize: "1"}}, want: reason.ArtifactInvalid, detail: "annotation blob-size"},
		"acceleration layer at the start": {artifact: artifact{layers: 3, annotations: annotations{acceleration: "yes"}}, want: reason.ArtifactInvalid, detail: "must be the last"},
		"another artifact type":           {artifact: artifact{layers: 3, kind: "application/vnd.example.fast"}, want: reason.NoMatch, detail: "application/vnd.example.fast"},
		"a bill of materials":             {artifact: artifact{layers: 1, kind: "application/spdx+json", mediaType: "application/spdx+json"}, want: reason.NoMatch, detail: "software bill of materials"},
	}
	everywhere(t, func(t *testing.T, p place) {
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				oras, repository := newOras(t), strings.NewReplacer(" ", "-", ",", "").Replace(name)
				p.putImage(t, repository, 3)
				made := tc.artifact.attach(t, oras, p.ref(repository, "1"))
				got := plan(t, p.ref(repository, "1"), negotiate.Rules{})
				if got.Reason != tc.want || !strings.Contains(got.Detail, tc.detail) || got.Lazy() != (tc.want == reason.None) {
					t.Fatalf("%s: %s, want %s: %s", got.Reason, got.Detail, tc.want, tc.detail)
				}
				if tc.want != reason.None {
					if codes(got)[made] != tc.want {
						t.Errorf("rejected %+v", got.Rejected)
					}
					return
				}
				c := got.Chosen
				if c.Artifact.Digest != made || c.Found != p.list || c.Fit != tc.fit || len(c.Layers) != tc.artifact.layers || (len(c.Tables) > 0) != tc.artifact.trace {
					t.Errorf("chosen %+v, want %s by %s, %s", c, made, p.list, tc.fit)
				}
			})
		}
	})
}

// TestOrasListsWhereItIsTold attaches by each of the ways that oras can be forced to.
func TestOrasListsWhereItIsTold(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for way, want := range map[string]reason.Code{
			"v1.1-referrers-tag": reason.None,
			"v1.1-referrers-api": map[negotiate.Discovery]reason.Code{negotiate.FoundTagSchema: reason.NoReferrers}[p.list],
		} {
			t.Run(way, func(t *testing.T) {
				t.Parallel()
				oras := newOras(t)
				p.putImage(t, way, 2)
				made := artifact{layers: 2, args: []string{"--distribution-spec", way}}.attach(t, oras, p.ref(way, "1"))
				got := plan(t, p.ref(way, "1"), negotiate.Rules{})
				if got.Reason != want {
					t.Fatalf("%s: %s, want %s", got.Reason, got.Detail, want)
				}
				if want == reason.None && (got.Chosen.Artifact.Digest != made || got.Chosen.Found != p.list) {
					t.Errorf("chosen %+v, want %s by %s", got.Chosen, made, p.list)
				}
				checkAgreement(t, oras, p.ref(way, "1"))
			})
		}
	})
}

// TestOrasAttachesToImagesOfSeveralPlatforms attaches to the index, and to the
// manifest of one platform.
func TestOrasAttachesToImagesOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, p place) {
		for name, tc := range map[string]struct {
			artifact artifact
			want     reason.Code
		}{
			"to-the-manifest":         {artifact{layers: 2, args: []string{"--platform", "linux/amd64"}}, reason.None},
			"to-the-other-manifest":   {artifact{layers: 2, args: []string{"--platform", "linux/arm64"}}, reason.NoReferrers},
			"to-the-index":            {artifact{layers: 2, config: counts(2)}, reason.None},
			"to-the-index-by-no-name": {artifact{layers: 2}, reason.OtherPlatform},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				oras := newOras(t)
				p.putIndex(t, name, 2)
				made := tc.artifact.attach(t, oras, p.ref(name, "1"))
				got := plan(t, p.ref(name, "1"), negotiate.Rules{})
				if got.Reason != tc.want {
					t.Fatalf("%s: %s, want %s", got.Reason, got.Detail, tc.want)
				}
				if tc.want == reason.None && got.Chosen.Artifact.Digest != made {
					t.Errorf("chosen %+v, want %s", got.Chosen, made)
				}
				checkAgreement(t, oras, p.ref(name, "1"))
			})
		}
	})
}
