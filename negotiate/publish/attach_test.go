package publish_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate/publish"
)

func describe(mediaType, text string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
}

// TestAttachedArtifactIsListed asks the registry, and where it keeps no list the
// fallback tag, in the way that every other client does.
func TestAttachedArtifactIsListed(t *testing.T) {
	t.Parallel()
	for name, features := range map[string]regtest.Features{
		"referrers API": {Referrers: true},
		"fallback tag":  {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &features})
			img := putImage(t, reg, "1", amd64)
			repo := regtest.Repository(t, reg.Host(), "app")
			manifest := ocispec.Manifest{
				Config: describe("application/x.note", "{}"), Layers: []ocispec.Descriptor{describe("text/plain", "I was here")},
				Subject: &img.Descriptor, Annotations: map[string]string{"who": "me"},
			}
			pushed, err := publish.Attach(t.Context(), repo, manifest, []byte("I was here"), []byte("{}"))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := content.FetchAll(t.Context(), repo, pushed)
			if err != nil {
				t.Fatal(err)
			}
			var stored ocispec.Manifest
			if err := json.Unmarshal(raw, &stored); err != nil {
				t.Fatal(err)
			}
			if stored.SchemaVersion != 2 || stored.MediaType != ocispec.MediaTypeImageManifest || stored.ArtifactType != "" {
				t.Errorf("pushed %s", raw)
			}
			var listed []ocispec.Descriptor
			err = regtest.Repository(t, reg.Host(), "app").Referrers(t.Context(), img.Descriptor, "application/x.note", func(page []ocispec.Descriptor) error {
				listed = append(listed, page...)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want := pushed
			want.Annotations = manifest.Annotations
			if diff := cmp.Diff([]ocispec.Descriptor{want}, listed); diff != "" {
				t.Errorf("referrers (-want +got):\n%s", diff)
			}

			reg.ResetRequests()
			again, err := publish.Attach(t.Context(), repo, manifest, []byte("I was here"), []byte("{}"))
			if err != nil || again.Digest != pushed.Digest {
				t.Errorf("attached again: %s, %v", again.Digest, err)
			}
			if uploads, _ := reg.Count(func(e regtest.Entry) bool { return e.Method == http.MethodPost }); uploads != 0 {
				t.Errorf("%d blobs were sent again", uploads)
			}
		})
	}
}

func TestAttachRefusesWhatNobodyCouldRead(t *testing.T) {
	t.Parallel()
	subject := describe(ocispec.MediaTypeImageManifest, "an image")
	for name, tc := range map[string]struct {
		subject *ocispec.Descriptor
		blobs   [][]byte
		want    string
	}{
		"no subject":         {nil, [][]byte{[]byte("{}")}, "subject"},
		"half a subject":     {&ocispec.Descriptor{MediaType: subject.MediaType}, [][]byte{[]byte("{}")}, "subject"},
		"blob missing":       {&subject, nil, "content is not given"},
		"blob of other size": {&subject, [][]byte{[]byte("{} ")}, "content is not given"},
		"blob of other text": {&subject, [][]byte{[]byte("[]")}, "content is not given"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			manifest := ocispec.Manifest{Config: describe("application/x.note", "{}"), Subject: tc.subject}
			_, err := publish.Attach(t.Context(), regtest.Repository(t, reg.Host(), "app"), manifest, tc.blobs...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want one about %q", err, tc.want)
			}
			if n, _ := reg.Count(func(regtest.Entry) bool { return true }); n != 0 {
				t.Errorf("the registry saw %d requests", n)
			}
		})
	}
}
