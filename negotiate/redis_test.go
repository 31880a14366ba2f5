package negotiate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

// What the example's README says, in its own words.
const (
	redisDigest   = "sha256:820582b05253c2b968442b8af31d791ae64478bcc18e04826c5ce42f974d3272"
	redisResolve  = "/v2/redis/manifests/latest"
	redisDiscover = "/oras/artifacts/v1/redis/manifests/" + redisDigest + "/referrers?artifactType=dadi.image.v1"
	dockerImage   = "application/vnd.docker.distribution.manifest.v2+json"
)

// The layers of its artifact, bottom first, and the one that tells what to prefetch.
var redisLayers = []string{"a8b5fca8", "87763bef", "5bf55fa8", "62a99921", "f2d33f59", "8d77203e", "8bdb50d0"}

const redisPrefetch = "c32be80b"

// redisDocuments are the example's two manifests as the registry held them. That
// of the image was printed with another indentation: the first one's bytes have
// the published digest.
func redisDocuments(t *testing.T) (image, artifact []byte) {
	t.Helper()
	dir := testdata.Dir(t, "redis-example")
	var registrys bytes.Buffer
	if err := json.Indent(&registrys, bytes.TrimSpace(read(t, dir, "image.json")), "", "   "); err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(registrys.Bytes()); got != redisDigest {
		t.Fatalf("the image's manifest hashes to %s", got)
	}
	return registrys.Bytes(), read(t, dir, "artifact.json")
}

// TestRedisExampleVerbatim serves both documents byte for byte. The configs were
// never published, so the plan must end where it asks for them: for the image's,
// and for the artifact's, because seven layers for six need its word.
func TestRedisExampleVerbatim(t *testing.T) {
	t.Parallel()
	image, artifact := redisDocuments(t)
	reg := regtest.New(t, regtest.Options{Features: &regtest.Features{ORASv1: true, ORASPush: true}})
	if _, err := reg.PutManifest("redis", "latest", dockerImage, image); err != nil {
		t.Fatal(err)
	}
	d, err := reg.PutManifest("redis", "", regtest.MediaTypeORASArtifact, artifact)
	if err != nil {
		t.Fatal(err)
	}
	const imageConfig, artifactConfig = "/blobs/sha256:de974760ddb2f32dbddb74b7bb8cff4c1eee06d43d36d11bbca1dc815173916e", "/blobs/sha256:8e3bd5ee258431fd6bb25652afc666f7582777229c5147e096ccf9b20c06ac1c"
	release := reg.Inject(regtest.Fault{Match: regtest.Path(imageConfig), Hang: true}) // until the other is asked for
	both := struck(reg, artifactConfig)
	var releaser sync.WaitGroup
	t.Cleanup(releaser.Wait)
	releaser.Go(func() {
		select {
		case <-both:
		case <-t.Context().Done():
		}
		release()
	})
	n := newNegotiator(t, negotiate.Options{Policy: legacy(negotiate.LegacyOn), Attachable: onlyOverlaybd})
	if p, err := n.Plan(t.Context(), negotiate.Request{Reference: reg.Ref("redis", "latest"), Platform: amd64}); err == nil {
		t.Fatalf("planned %+v without a config", p)
	}
	asked := requests(reg)
	for _, want := range []string{redisResolve, redisDiscover, "/v2/redis/manifests/" + d.Digest.String()} {
		if !slices.Contains(asked, want) {
			t.Errorf("not asked: %s; but:\n%s", want, strings.Join(asked, "\n"))
		}
	}

	m, err := negotiate.DecodeManifest("", artifact)
	if err != nil {
		t.Fatal(err)
	}
	c, err := negotiate.Recognisers()[0].Recognise(t.Context(), negotiate.Artifact{Manifest: m, Platform: *amd64})
	if err != nil || m.ArtifactType != typeDADI || m.Subject == nil || m.Subject.Digest != redisDigest || m.Subject.Size != 16724 {
		t.Fatalf("%v, decoded %+v", err, m)
	}
	if c.Format != "overlaybd" || c.Config == nil || !strings.HasSuffix(artifactConfig, c.Config.Digest.String()) {
		t.Errorf("candidate %+v", c)
	}
	checkRedisLayers(t, c)
}

func checkRedisLayers(t *testing.T, c *negotiate.Candidate) {
	t.Helper()
	if diff := cmp.Diff(redisLayers, digests(c.Layers)); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	if len(c.Tables) != 1 || c.Tables[0].Digest.Encoded()[:8] != redisPrefetch || c.Tables[0].Size != 11264 {
		t.Errorf("acceleration layer %+v", c.Tables)
	}
}

// TestRedisExample plays the whole of it. Of the two documents only what names
// the configs changes, since they were not published, and so the digests that
// follow from that.
func TestRedisExample(t *testing.T) {
	t.Parallel()
	image, artifact := redisDocuments(t)
	for name, tc := range map[string]struct {
		features regtest.Features
		found    negotiate.Discovery
		request  string // $ or, in a query, %: what is asked about
	}{
		"as its README asks": {
			regtest.Features{ORASv1: true},
			negotiate.FoundORASv1,
			"/oras/artifacts/v1/redis/manifests/$/referrers",
		},
		"a year later": {
			regtest.Features{ORASv2: true},
			negotiate.FoundORASv2,
			"/v2/redis/_oras/artifacts/referrers?digest=%",
		},
	} {
		for _, signed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, signed %t", name, signed), func(t *testing.T) {
				t.Parallel()
				features := tc.features
				features.ORASPush = true
				reg := regtest.New(t, regtest.Options{Features: &features})
				subject, err := reg.PutManifest("redis", "latest", dockerImage, withConfig(t, reg, image, 6))
				if err != nil {
					t.Fatal(err)
				}
				form := bytes.Replace(withConfig(t, reg, artifact, 7), []byte(redisDigest), []byte(subject.Digest), 1)
				d, err := reg.PutManifest("redis", "", regtest.MediaTypeORASArtifact, form)
				if err != nil {
					t.Fatal(err)
				}
				rules := negotiate.Rules{LegacyORAS: negotiate.LegacyOn}
				if signed {
					rules.RequireSignature, rules.Verifiers = true, []negotiate.Verifier{believer{}}
					signWithORAS(t, reg, d)
				}
				p := plan(t, newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(rules), Attachable: onlyOverlaybd}), reg.Ref("redis", "latest"))
				if !p.Lazy() {
					t.Fatalf("%s: %s: %q", p.Reason, p.Detail, requests(reg))
				}
				c := p.Chosen
				checkRedisLayers(t, c)
				// Seven layers for six: the ready-made file system lies below.
				if c.Fit != negotiate.FitBased || c.Found != tc.found || len(p.Image.ChainIDs) != 6 || (c.Signer != nil) != signed {
					t.Errorf("fit %s, found by %s, %d chain IDs, signer %v", c.Fit, c.Found, len(p.Image.ChainIDs), c.Signer)
				}
				want := []string{redisResolve, about(tc.request, subject.Digest, typeDADI)}
				if signed { // the same query for the artifact's digest, for all types
					want = append(want, about(tc.request, d.Digest, ""))
				}
				asked := requests(reg)
				for _, line := range want {
					if !slices.Contains(asked, line) {
						t.Errorf("not asked: %s; but:\n%s", line, strings.Join(asked, "\n"))
					}
				}
			})
		}
	}
}

// about is a request of a legacy endpoint about a digest. Raw in a path, the
// colon is escaped in a query, whose parameters are sorted.
func about(request string, d digest.Digest, artifactType string) string {
	if before, found := strings.CutSuffix(request, "digest=%"); found {
		if artifactType != "" {
			before += "artifactType=" + artifactType + "&"
		}
		return before + "digest=" + strings.Replace(d.String(), ":", "%3A", 1)
	}
	request = strings.Replace(request, "$", d.String(), 1)
	if artifactType != "" {
		request += "?artifactType=" + artifactType
	}
	return request
}

// signWithORAS attaches a Notation signature to subject as an ORAS artifact.
func signWithORAS(t *testing.T, reg *regtest.Registry, subject ocispec.Descriptor) {
	t.Helper()
	envelope, err := reg.PutBlob("application/jose+json", []byte(`{"payload":"…"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = reg.PutJSON("redis", "", regtest.MediaTypeORASArtifact, map[string]any{
		"mediaType": regtest.MediaTypeORASArtifact, "artifactType": "application/vnd.cncf.notary.signature",
		"subject": subject, "blobs": []ocispec.Descriptor{envelope},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// believer believes every Notation signature.
type believer struct{}

func (believer) Name() string { return "believer" }

func (believer) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureNotation
}

func (believer) Verify(_ context.Context, _ negotiate.Target, s negotiate.Signature) (negotiate.Signer, error) {
	if s.MediaType != "application/jose+json" || len(s.Content) == 0 {
		return negotiate.Signer{}, reason.Errorf(reason.SignatureInvalid, "no envelope")
	}
	return negotiate.Signer{Identity: "anyone"}, nil
}

// withConfig puts a config with so many diff IDs into the place of the first
// config descriptor of a document, and changes nothing else of it.
func withConfig(t *testing.T, reg *regtest.Registry, doc []byte, diffIDs int) []byte {
	t.Helper()
	m, err := negotiate.DecodeManifest("", doc)
	if err != nil {
		t.Fatal(err)
	}
	old := m.Config
	if old == nil {
		old = &m.Files[0]
	}
	config := ocispec.Image{Platform: *amd64, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range diffIDs {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString(fmt.Sprint(i)))
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.PutBlob(old.MediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	doc = bytes.Replace(doc, []byte(old.Digest), []byte(d.Digest), 1)
	return bytes.Replace(doc, fmt.Appendf(nil, `"size": %d`, old.Size), fmt.Appendf(nil, `"size": %d`, d.Size), 1)
}
