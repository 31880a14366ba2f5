package e2e_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/carry"
	signnotation "github.com/referee-cri/referee/negotiate/publish/notation"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// party is somebody who signs, with one key for every scheme.
type party struct {
	root, holder       *notarytest.Holder // an authority of its own, and its certificate
	key, chain, public string             // files
}

func newParty(t *testing.T, name string) party {
	t.Helper()
	p := party{root: notarytest.Root(t, name+"'s authority"), public: filepath.Join(t.TempDir(), "public.pem")}
	p.holder = p.root.Issue(t, notarytest.Request{Name: name})
	p.key, p.chain = p.holder.Files(t)
	notarytest.Write(t, p.public, p.publicPEM(t))
	return p
}

func (p party) publicPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(p.holder.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// scheme is a way of signing. Its domain's images need the signature of whom the
// trust block of that name trusts.
type scheme struct {
	name   string
	kind   negotiate.SignatureKind
	trust  string
	domain string
	flags  []string // of referee convert, but for the files
	sign   func(context.Context, party, *remote.Repository, ocispec.Descriptor) (ocispec.Descriptor, error)
}

func notationScheme(envelope string) scheme {
	return scheme{
		name: "notation " + envelope, kind: negotiate.SignatureNotation, trust: "release", domain: "notation.test",
		flags: []string{"--sign", "notation", "--sign-envelope", envelope},
		sign: func(ctx context.Context, p party, repo *remote.Repository, d ocispec.Descriptor) (ocispec.Descriptor, error) {
			return signnotation.Sign(ctx, repo, d, signnotation.Options{KeyFile: p.key, CertFile: p.chain, Envelope: envelope})
		},
	}
}

func cosignScheme(kind negotiate.SignatureKind, place signsigstore.Scheme) scheme {
	return scheme{
		name: "cosign " + string(place), kind: kind, trust: "ci", domain: "cosign.test",
		flags: []string{"--sign", "cosign", "--sign-scheme", string(place)},
		sign: func(ctx context.Context, p party, repo *remote.Repository, d ocispec.Descriptor) (ocispec.Descriptor, error) {
			return signsigstore.Sign(ctx, repo, d, signsigstore.Options{KeyFile: p.key, Scheme: place})
		},
	}
}

// by completes the flags with somebody's files.
func (s scheme) by(p party) []string {
	flags := append(slices.Clone(s.flags), "--sign-key", p.key)
	if s.kind == negotiate.SignatureNotation {
		flags = append(flags, "--sign-certificates", p.chain)
	}
	return flags
}

// market is a node that wants signatures of one publisher.
type market struct {
	*ground
	publisher party
	store     *notarytest.Store // of the trust block "release"
	keys      string            // of the trust block "ci", a file
}

func newMarket(t *testing.T) *market {
	t.Helper()
	m := &market{publisher: newParty(t, "publisher"), store: notarytest.NewStore(t, notarytest.Statement("ca:prod"))}
	m.store.Trust(t, "ca", "prod", m.publisher.root.Certificate())
	m.keys = filepath.Join(t.TempDir(), "cosign.pub")
	notarytest.Write(t, m.keys, m.publisher.publicPEM(t))
	m.ground = newGround(t, node.Options{}, fmt.Sprintf(`[[policy]]
match = ["*.notation.test/**"]
min_size = "0B"
require_signature = true
trust = ["release"]
[[policy]]
match = ["*.cosign.test/**"]
min_size = "0B"
require_signature = true
trust = ["ci"]
[[trust]]
name = "release"
type = "notation"
policy_file = %q
trust_store = %q
[[trust]]
name = "ci"
type = "sigstore"
keys = [%q]
`, m.store.PolicyFile, m.store.TrustStoreDir, m.keys))
	return m
}

// stall is a trial whose image is pulled from a host in the scheme's domain.
type stall struct {
	*trial
	scheme
	publisher party
}

func (m *market) newStall(t *testing.T, s scheme) *stall {
	t.Helper()
	c := m.newTrial(t)
	_, port, _ := strings.Cut(c.registry.Host(), ":")
	host := "r" + port + "." + s.domain
	if err := m.PointHost(host, node.Endpoint{URL: c.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	c.ref = host + "/tiny:tiny"
	return &stall{c, s, m.publisher}
}

// convert makes a form of what a tag names, as a user does.
func (c *trial) convert(t *testing.T, tag string, flags ...string) []conversion.Attached {
	t.Helper()
	out := c.bed.command.run(t, append([]string{"convert", c.registry.Ref("tiny", tag), "--output", "json"}, flags...)...)
	var made []conversion.Attached
	if err := json.Unmarshal([]byte(out), &made); err != nil || len(made) == 0 {
		t.Fatalf("convert prints %q: %v", out, err)
	}
	return made
}

// signed is the form that the publisher has made and signed.
func (s *stall) signed(t *testing.T) conversion.Attached {
	t.Helper()
	form := s.convert(t, "tiny", s.by(s.publisher)...)[0]
	if form.Signature == nil {
		t.Fatal("convert --sign names no signature")
	}
	return form
}

// newer is the stock form, said to have been made later than any other.
func (c *trial) newer(t *testing.T) ocispec.Manifest {
	t.Helper()
	form := c.stock(t)
	form.Annotations = map[string]string{ocispec.AnnotationCreated: time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}
	return form
}

// mark signs something that is in the registry.
func (s *stall) mark(t *testing.T, d ocispec.Descriptor) {
	t.Helper()
	repo, err := remote.NewRepository(s.registry.Ref("tiny", "tiny"))
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if _, err := s.scheme.sign(t.Context(), s.publisher, repo, d); err != nil {
		t.Fatal(err)
	}
}

// fetch reads a manifest back.
func (c *trial) fetch(t *testing.T, d digest.Digest) ocispec.Manifest {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.registry.URL()+"/v2/tiny/manifests/"+d.String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	var m ocispec.Manifest
	if err == nil {
		err = json.Unmarshal(content, &m)
	}
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("fetch %s: %s, %v", d, response.Status, err)
	}
	return m
}

// reattach puts a signature where signatures of another form are.
func (s *stall) reattach(t *testing.T, signature, form ocispec.Descriptor) {
	t.Helper()
	m, tag := s.fetch(t, signature.Digest), ""
	if s.kind == negotiate.SignatureCosign {
		tag = "sha256-" + form.Digest.Encoded() + ".sig"
	} else {
		m.Subject = &ocispec.Descriptor{MediaType: form.MediaType, Digest: form.Digest, Size: form.Size}
	}
	if _, err := s.registry.PutJSON("tiny", tag, ocispec.MediaTypeImageManifest, m); err != nil {
		t.Fatal(err)
	}
}

// hide leaves something out of every list, and takes away the tag that names it.
func (c *trial) hide(t *testing.T, d digest.Digest, of digest.Digest) {
	t.Helper()
	c.rewriteLists(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(e ocispec.Descriptor) bool { return e.Digest == d })
	})
	c.registry.Inject(regtest.Fault{Match: regtest.Path("/manifests/sha256-" + of.Encoded() + ".sig"), Status: http.StatusNotFound})
}

// swap has the registry answer with another manifest under a form's digest, in lists
// and where it is asked for it.
func (c *trial) swap(form ocispec.Descriptor) {
	c.rewriteLists(func(index *ocispec.Index) {
		for _, e := range index.Manifests {
			if packed := e.Annotations[carry.Annotation]; e.Digest == form.Digest && packed != "" {
				e.Annotations[carry.Annotation] = packed[:len(packed)/2]
			}
		}
	})
	c.registry.Inject(regtest.Fault{Match: regtest.Path("/manifests/" + form.Digest.String()), FlipAt: at(form.Size / 2)})
}

// rewriteLists changes every list of referrers.
func (c *trial) rewriteLists(change func(*ocispec.Index)) {
	c.registry.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Rewrite: func(body []byte) []byte {
		var index ocispec.Index
		if json.Unmarshal(body, &index) != nil {
			return body
		}
		change(&index)
		changed, err := json.Marshal(index)
		if err != nil {
			return body
		}
		return changed
	}})
}

// explained is what the command line says of the pull of ref that began at since.
func (b *bed) explained(t *testing.T, ref string, since time.Time) fallback.Entry {
	t.Helper()
	b.explain(t, ref, since) // so that it has been written
	var entry fallback.Entry
	out := b.command.run(t, "explain", ref, "--output", "json")
	if err := json.Unmarshal([]byte(out), &entry); err != nil {
		t.Fatalf("explain prints %q: %v", out, err)
	}
	return entry
}
