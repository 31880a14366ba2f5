package e2e_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
)

// fault is one thing that is wrong with what is attached to an image, or with
// how its registry answers.
type fault struct {
	name    string
	arrange func(*testing.T, *trial)
	want    outcome
}

func (g *ground) try(t *testing.T, faults []fault) {
	t.Helper()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			c := g.newTrial(t)
			f.arrange(t, c)
			c.expectOrdinary(t, f.want)
		})
	}
}

// manifest attaches the stock form, changed.
func manifest(change func(t *testing.T, c *trial, m *ocispec.Manifest)) func(*testing.T, *trial) {
	return func(t *testing.T, c *trial) {
		t.Helper()
		m := c.stock(t)
		change(t, c, &m)
		c.attach(t, m)
	}
}

// sound attaches the stock form and breaks the registry.
func sound(faults ...regtest.Fault) func(*testing.T, *trial) {
	return func(t *testing.T, c *trial) {
		t.Helper()
		c.attach(t, c.stock(t))
		for _, f := range faults {
			c.registry.Inject(f)
		}
	}
}

func at(n int64) *int64 { return &n }

// TestUnusableReferrers pulls images whose registry says nothing useful about
// them, or something false.
func TestUnusableReferrers(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{}, "")
	referrers := regtest.Path("/referrers/")
	g.try(t, []fault{
		{"nothing attached", func(*testing.T, *trial) {}, outcome{reason: reason.NoReferrers, whole: true}},
		{"no API, no tag", func(t *testing.T, c *trial) {
			t.Helper()
			c.registry.Configure(func(f *regtest.Features) { f.Referrers = false })
		}, outcome{reason: reason.NoReferrers}},
		{"unknown type", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.ArtifactType = "application/vnd.example.thing.v1"
		}), outcome{reason: reason.NoMatch, says: "vnd.example.thing"}},
		{"a signature", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.ArtifactType = "application/vnd.dev.sigstore.bundle.v0.3+json"
		}), outcome{reason: reason.NoMatch, says: "Sigstore"}},

		{"other platform by annotation", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.ArtifactType = "application/vnd.azure.artifact.streaming.v1"
			m.Annotations = map[string]string{
				"streaming.format": "overlaybd", "streaming.version": "v1", "streaming.platform.os": "linux", "streaming.platform.arch": "s390x",
			}
		}), outcome{reason: reason.OtherPlatform, says: "linux/s390x"}},
		{"index of other platforms", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			subject := m.Subject
			m.Subject = nil
			d := c.attach(t, m)
			d.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
			index := ocispec.Index{
				MediaType: ocispec.MediaTypeImageIndex, ArtifactType: m.ArtifactType, Subject: subject, Manifests: []ocispec.Descriptor{d},
			}
			index.SchemaVersion = 2
			if _, err := c.registry.PutJSON("tiny", "", ocispec.MediaTypeImageIndex, index); err != nil {
				t.Fatal(err)
			}
		}, outcome{reason: reason.OtherPlatform, says: "no image for this platform"}},

		{"one layer short", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers = m.Layers[:3]
		}), outcome{reason: reason.LayerMismatch, says: "3 layers, the image has 4"}},
		{"two layers too many", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers = append(m.Layers, m.Layers[:2]...)
		}), outcome{reason: reason.LayerMismatch, says: "6 layers, the image has 4"}},
		{"a base that its config does not have", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers = append(m.Layers[:1:1], m.Layers...)
		}), outcome{reason: reason.LayerMismatch, says: "5 layers, its config has 4 diff IDs"}},
		{"one layer for all, not by its config", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers = m.Layers[:1]
		}), outcome{reason: reason.LayerMismatch, says: "1 layers, its config has 4 diff IDs"}},
		{"no layers", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers = nil
		}), outcome{reason: reason.ArtifactInvalid, says: "no layers"}},
		{"a compressed layer", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers[1].MediaType = ocispec.MediaTypeImageLayerGzip
		}), outcome{reason: reason.ArtifactInvalid, says: "compressed"}},
		{"a layer's annotation names another blob", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers[1].Annotations = m.Layers[0].Annotations
		}), outcome{reason: reason.ArtifactInvalid, says: "blob-digest"}},
		{"a layer of negative size", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers[1].Size = -1
		}), outcome{reason: reason.ArtifactInvalid, says: "size -1"}},
		{"a layer with a path for a digest", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) {
			m.Layers[1] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: "sha256:../../etc/passwd", Size: 9}
		}), outcome{reason: reason.ArtifactInvalid, says: "invalid checksum digest"}},
		{"not JSON", func(t *testing.T, c *trial) {
			t.Helper()
			d := c.attach(t, c.stock(t))
			garbage := bytes.Repeat([]byte{'{'}, int(d.Size))
			d.Digest = digest.FromBytes(garbage)
			d.ArtifactType = c.form.ArtifactType
			c.list(t, d)
			c.registry.Inject(regtest.Fault{
				Match: regtest.Path(d.Digest.String()), Status: http.StatusOK, Body: garbage, Header: http.Header{"Content-Type": {d.MediaType}},
			})
		}, outcome{reason: reason.ArtifactInvalid, says: "decode manifest"}},

		{"attached to another image", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			m.Subject.Digest = digest.FromString("another")
			d := c.attach(t, m)
			d.ArtifactType = m.ArtifactType
			c.list(t, d)
		}, outcome{reason: reason.SubjectMismatch, says: digest.FromString("another").String()}},
		{"attached to nothing", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			m.Subject = nil
			d := c.attach(t, m)
			d.ArtifactType = m.ArtifactType
			c.list(t, d)
		}, outcome{reason: reason.SubjectMismatch, says: "no subject"}},
		{"manifest of another digest", func(t *testing.T, c *trial) {
			t.Helper()
			d := c.attach(t, c.stock(t))
			c.registry.Inject(regtest.Fault{Match: regtest.Path(d.Digest.String()), FlipAt: at(d.Size / 2)})
		}, outcome{reason: reason.DigestMismatch, says: "hashes to"}},
		{"manifest of another size", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			d := c.attach(t, m)
			d.Size++
			d.ArtifactType = m.ArtifactType
			c.list(t, d)
		}, outcome{reason: reason.SizeMismatch, says: "its descriptor says"}},
		{"manifest of absurd size", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			d := c.attach(t, m)
			d.Size = 1 << 50
			d.ArtifactType = m.ArtifactType
			c.list(t, d)
		}, outcome{reason: reason.SizeMismatch, says: "limit"}},
		{"manifest not there", func(t *testing.T, c *trial) {
			t.Helper()
			c.list(t, ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, ArtifactType: c.form.ArtifactType, Digest: digest.FromString("gone"), Size: 4,
			})
		}, outcome{reason: reason.NotFound}},

		{"referrers answer 500", sound(regtest.Fault{Match: referrers, Status: 500}), outcome{reason: reason.RegistryError, says: "500"}},
		{"referrers answer 429", sound(regtest.Fault{Match: referrers, Status: 429}), outcome{reason: reason.RegistryError, says: "429"}},
		{"referrers answer 401", sound(regtest.Fault{Match: referrers, Status: 401}), outcome{reason: reason.Unauthorized, says: "401"}},
		{"referrers answer 403", sound(regtest.Fault{Match: referrers, Status: 403}), outcome{reason: reason.Unauthorized, says: "403"}},
		{"referrers answer 404", sound(regtest.Fault{Match: referrers, Status: 404}), outcome{reason: reason.NoReferrers}},
		{"referrers answer a web page", sound(regtest.Fault{
			Match: referrers, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html>log in</html>"),
		}), outcome{reason: reason.NoReferrers}},
		{"referrers answer no JSON", sound(regtest.Fault{
			Match: referrers, Rewrite: func(body []byte) []byte { return body[:len(body)/2] },
		}), outcome{reason: reason.RegistryError, says: "decode list of referrers"}},
		{"referrers close at once", sound(regtest.Fault{Match: referrers, Drop: true}), outcome{reason: reason.RegistryUnreachable, says: "closed without an answer"}},
		{"referrers close mid-body", sound(regtest.Fault{Match: referrers, CutAt: at(100)}), outcome{reason: reason.RegistryUnreachable, says: "EOF"}},
		{"referrers answer too much", sound(regtest.Fault{
			Match: referrers, Rewrite: func([]byte) []byte { return bytes.Repeat([]byte{' '}, 5<<20) },
		}), outcome{reason: reason.RegistryError, says: "limit"}},
		{"referrers page in a circle", func(t *testing.T, c *trial) {
			t.Helper()
			c.registry.Inject(regtest.Fault{Match: referrers, Header: http.Header{"Link": {`<?page=1>; rel="next"`}}})
		}, outcome{reason: reason.RegistryError, says: "loop"}},

		{"artifact answers 500", func(t *testing.T, c *trial) {
			t.Helper()
			d := c.attach(t, c.stock(t))
			c.registry.Inject(regtest.Fault{Match: regtest.Path(d.Digest.String()), Status: 500})
		}, outcome{reason: reason.RegistryError, says: "500"}},
		{"artifact closes mid-body", func(t *testing.T, c *trial) {
			t.Helper()
			d := c.attach(t, c.stock(t))
			c.registry.Inject(regtest.Fault{Match: regtest.Path(d.Digest.String()), CutAt: at(100)})
		}, outcome{reason: reason.RegistryUnreachable, says: "EOF"}},
	})
}

// negotiateTimeout is what the nodes of slow registries are configured with.
const negotiateTimeout = 700 * time.Millisecond

// TestSilentReferrers counts what a registry that does not answer about
// referrers costs a pull.
func TestSilentReferrers(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{}, "[pull]\nnegotiate_timeout = \""+negotiateTimeout.String()+"\"\n")
	const overhead = 500 * time.Millisecond // grace, questions to containerd, and the answer's way
	slow := outcome{reason: reason.BudgetExceeded, within: negotiateTimeout + overhead}
	referrers := regtest.Path("/referrers/")
	g.try(t, []fault{
		{"referrers hang", sound(regtest.Fault{Match: referrers, Hang: true}), slow},
		{"referrers come too late", sound(regtest.Fault{Match: referrers, Latency: 3 * time.Second}), slow},
		{"referrers trickle", sound(regtest.Fault{Match: referrers, BytesPerSecond: 50}), slow},
		{"artifact hangs", func(t *testing.T, c *trial) {
			t.Helper()
			d := c.attach(t, c.stock(t))
			c.registry.Inject(regtest.Fault{Match: regtest.Path(d.Digest.String()), Hang: true})
		}, slow},
		{"artifact's config hangs", func(t *testing.T, c *trial) {
			t.Helper()
			m := c.stock(t)
			m.Layers = append(m.Layers[:1:1], m.Layers...)
			c.attach(t, m)
			c.registry.Inject(regtest.Fault{Match: regtest.Path(m.Config.Digest.String()), Hang: true})
		}, slow},
	})
}
