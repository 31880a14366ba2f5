package negotiate_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// TestAttachedContents lists what is attached to a form: the newest of one type,
// whole and true, and no more than was asked for.
func TestAttachedContents(t *testing.T) {
	t.Parallel()
	const kind, limit = "application/vnd.test.note+json", 100
	reg := regtest.New(t, regtest.Options{})
	subject, err := reg.PutJSON("app", "form", ocispec.MediaTypeImageManifest, note(t, reg, kind, nil, "", "form"))
	if err != nil {
		t.Fatal(err)
	}
	attach := func(kind, created string, contents ...string) ocispec.Descriptor {
		t.Helper()
		d, err := reg.PutJSON("app", "", ocispec.MediaTypeImageManifest, note(t, reg, kind, &subject, created, contents...))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	attach(kind, "2026-01-01T00:00:00Z", "old")
	attach(kind, "2026-01-03T00:00:00Z", "new")
	attach(kind, "2026-01-02T00:00:00Z", "middle")
	attach("application/vnd.test.other", "2026-01-04T00:00:00Z", "of another type")
	client := registry.New(registry.Options{})
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	repo, err := client.Repository(reg.Host()+"/app", registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(most int) ([]string, error) {
		n := newNegotiator(t, negotiate.Options{Client: client})
		contents, err := n.Attached(t.Context(), repo, subject.Digest, kind, most, limit)
		var texts []string
		for _, content := range contents {
			texts = append(texts, string(content))
		}
		return texts, err
	}
	for _, tc := range []struct {
		most int
		want []string
	}{{0, nil}, {2, []string{"new", "middle"}}, {9, []string{"new", "middle", "old"}}} {
		if got, err := ask(tc.most); err != nil || !cmp.Equal(got, tc.want) {
			t.Errorf("of at most %d: %q, %v, want %q", tc.most, got, err, tc.want)
		}
	}

	attach(kind, "2026-01-05T00:00:00Z", "one", "two")
	if got, err := ask(2); reason.Of(err) != reason.ArtifactInvalid || !cmp.Equal(got, []string{"new"}) {
		t.Errorf("with two layers: %q, %v", got, err)
	}
	attach(kind, "2026-01-06T00:00:00Z", string(bytes.Repeat([]byte("x"), limit+1)))
	if got, err := ask(3); err == nil || !cmp.Equal(got, []string{"new"}) {
		t.Errorf("with too much: %q, %v", got, err)
	}
	lie := attach(kind, "2026-01-07T00:00:00Z", "true")
	remove := reg.Inject(regtest.Fault{Match: regtest.Path(lie.Digest.String(), http.MethodGet), Status: http.StatusOK, Body: []byte("{}")})
	if got, err := ask(1); err == nil || len(got) != 0 {
		t.Errorf("with other bytes than its digest says: %q, %v", got, err)
	}
	remove()
	defer reg.Inject(regtest.Fault{Status: http.StatusServiceUnavailable})()
	if got, err := ask(1); err == nil || errors.Is(err, t.Context().Err()) || len(got) != 0 {
		t.Errorf("of a registry that is away: %q, %v", got, err)
	}
}

// note is a manifest with a layer for each of contents.
func note(t *testing.T, reg *regtest.Registry, kind string, subject *ocispec.Descriptor, created string, contents ...string) ocispec.Manifest {
	t.Helper()
	config, err := reg.PutBlob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Config: config, Subject: subject}
	if created != "" {
		if _, err := time.Parse(time.RFC3339, created); err != nil {
			t.Fatal(err)
		}
		m.Annotations = map[string]string{ocispec.AnnotationCreated: created}
	}
	for _, content := range contents {
		layer, err := reg.PutBlob(kind, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, layer)
	}
	return m
}
