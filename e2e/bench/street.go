package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/carry"
)

// Artifact types of what is attached.
const (
	typeForm      = "application/vnd.containerd.overlaybd.native.v1+json"
	typeSBOM      = "application/spdx+json"
	typeSignature = "application/vnd.cncf.notary.signature"
)

var platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

// The scenarios.
const (
	nothing  = "nothing attached"
	one      = "one referrer"
	carried  = "one referrer, its manifest in the list"
	multi    = "one referrer, multi-platform"
	fifty    = "fifty referrers, half of them forms"
	untagged = "no API, nothing under the tag"
	tagged   = "no API, one under the tag"
	signed   = "one referrer, signature wanted"
)

// scenarios has them in the order of the report.
var scenarios = []string{nothing, one, carried, multi, fifty, untagged, tagged, signed}

// shop is a repository with an image of two layers under the tag 1, in one state
// of what is attached.
type shop struct {
	scenario   string // one of scenarios
	repository string
	registry   int // of the street: 0 has the referrers API, 1 does not
	lazy       bool
	rules      negotiate.Rules

	documents []string // what every pull asks for, in that order
}

// buildStreet starts the registries and fills them.
func buildStreet() (s *street, err error) {
	s = &street{clients: map[string]*registry.Client{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "bench-hosts-*"); err != nil {
		return s, err
	}
	old := regtest.DefaultFeatures()
	old.Referrers = false
	for _, features := range []*regtest.Features{nil, &old} {
		reg, err := regtest.Start(regtest.Options{TLS: true, Features: features})
		if err != nil {
			return s, err
		}
		s.registries = append(s.registries, reg)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return s, err
	}
	wantSignature := negotiate.Rules{RequireSignature: true, Verifiers: []negotiate.Verifier{signerKey(public)}}
	attachForm := func(c *counter) error { _, err := c.attach(typeForm, c.subject); return err }
	for _, kind := range []struct {
		shop   shop
		attach func(c *counter) error
	}{
		{shop{scenario: nothing}, func(*counter) error { return nil }},
		{shop{scenario: one, lazy: true}, attachForm},
		{shop{scenario: carried, lazy: true}, func(c *counter) error { c.carried = true; return attachForm(c) }},
		{shop{scenario: multi, lazy: true}, attachForm},
		{shop{scenario: fifty, lazy: true}, func(c *counter) (err error) {
			for i := 0; i < 25 && err == nil; i++ {
				_, also := c.attach(typeSBOM, c.subject)
				err = errors.Join(attachForm(c), also)
			}
			return err
		}},
		{shop{scenario: untagged, registry: 1}, func(*counter) error { return nil }},
		{shop{scenario: tagged, registry: 1, lazy: true}, func(c *counter) error {
			d, err := c.attach(typeForm, c.subject)
			return errors.Join(err, c.tag(d))
		}},
		{shop{scenario: signed, lazy: true, rules: wantSignature}, func(c *counter) error {
			d, err := c.attach(typeForm, c.subject)
			return errors.Join(err, c.sign(private, d))
		}},
	} {
		made := kind.shop
		made.repository = fmt.Sprintf("shop%d/app", len(s.shops))
		if err := made.fill(s.registries[made.registry], kind.attach); err != nil {
			return s, err
		}
		s.shops = append(s.shops, &made)
	}
	return s, nil
}

func (s *shop) fill(reg *regtest.Registry, attach func(*counter) error) error {
	tag := "1"
	if s.scenario == multi {
		tag = ""
	}
	img, err := reg.PutImage(s.repository, tag, regtest.ImageSpec{Platform: platform})
	if err != nil {
		return err
	}
	s.documents = []string{"manifests/1", "blobs/" + img.Manifest.Config.Digest.String()}
	if s.scenario == multi {
		if _, err := reg.PutIndex(s.repository, "1", img); err != nil {
			return err
		}
		s.documents = []string{"manifests/1", "manifests/" + img.Descriptor.Digest.String(), s.documents[1]}
	}
	subject := img.Descriptor
	subject.Platform = nil
	return attach(&counter{reg: reg, repository: s.repository, subject: subject, img: img})
}

func (s *shop) negotiator(client *registry.Client) *negotiate.Negotiator {
	return negotiate.New(negotiate.Options{Client: client, Policy: negotiate.Uniform(s.rules)})
}

// fetchAnyway asks for what containerd asks for before layers, one after the other.
func (s *shop) fetchAnyway(ctx context.Context, client *registry.Client, name string) error {
	repo, err := client.Repository(name, registry.Credentials{})
	if err != nil {
		return err
	}
	for _, path := range s.documents {
		if err := get(ctx, repo, path, ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex+", */*"); err != nil {
			return err
		}
	}
	return nil
}

// counter is where artifacts are handed in for an image.
type counter struct {
	reg        *regtest.Registry
	repository string
	subject    ocispec.Descriptor
	img        *regtest.Image
	carried    bool // lists bring the manifests of what is attached
	served     int
}

// attach attaches an artifact with as many layers as the image has, or, in their
// place, this content.
func (c *counter) attach(artifactType string, subject ocispec.Descriptor, content ...byte) (ocispec.Descriptor, error) {
	c.served++
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: c.img.Manifest.Config, Subject: &subject,
		Annotations: map[string]string{"example.number": fmt.Sprint(c.served)},
	}
	for i := range c.img.Manifest.Layers {
		text := fmt.Sprint("layer", i, "of", c.served)
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(text), Size: int64(len(text)),
		})
	}
	if content != nil {
		d, err := c.reg.PutBlob("application/octet-stream", content)
		if err != nil {
			return d, err
		}
		m.Layers = []ocispec.Descriptor{d}
	}
	manifest, err := json.Marshal(m)
	if err == nil && c.carried {
		manifest, _, err = carry.Pack(manifest, m.Annotations)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := c.reg.PutManifest(c.repository, "", m.MediaType, manifest)
	d.ArtifactType = artifactType
	return d, err
}

// tag lists d under the fallback tag.
func (c *counter) tag(d ocispec.Descriptor) error {
	_, err := c.reg.PutJSON(c.repository, "sha256-"+c.subject.Digest.Encoded(), ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
	})
	return err
}

func (c *counter) sign(key ed25519.PrivateKey, d ocispec.Descriptor) error {
	d.ArtifactType = ""
	_, err := c.attach(typeSignature, d, ed25519.Sign(key, []byte(d.Digest))...)
	return err
}

// signerKey verifies bare signatures of digests: what a signature costs here is
// its requests.
type signerKey ed25519.PublicKey

var _ negotiate.Verifier = signerKey{}

func (signerKey) Name() string                         { return "bench" }
func (signerKey) Accepts(negotiate.SignatureKind) bool { return true }

func (k signerKey) Verify(_ context.Context, target negotiate.Target, s negotiate.Signature) (negotiate.Signer, error) {
	if !ed25519.Verify(ed25519.PublicKey(k), []byte(target.Descriptor.Digest), s.Content) {
		return negotiate.Signer{}, errors.New("signature is of something else")
	}
	return negotiate.Signer{Identity: "bench"}, nil
}
