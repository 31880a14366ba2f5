package negotiate_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// attachIndex attaches an accelerated index for amd64 to the image index. Its
// manifest names subject as its own, if that is not nil.
func attachIndex(t *testing.T, reg *regtest.Registry, index ocispec.Descriptor, subject *ocispec.Descriptor) (top, manifest ocispec.Descriptor) {
	t.Helper()
	mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, reg, subject)
	manifest, err := reg.PutJSON("app", "", mediaType, m)
	if err != nil {
		t.Fatal(err)
	}
	entry := manifest
	entry.Platform = amd64
	top, err = reg.PutJSON("app", "", ocispec.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "artifactType": typeNative,
		"subject": index, "manifests": []ocispec.Descriptor{entry},
	})
	if err != nil {
		t.Fatal(err)
	}
	return top, manifest
}

// TestSignedByItselfForAnyIndex: a publisher's signed manifest that names no subject
// can be listed in anybody's index, and its signature says nothing of that one.
func TestSignedByItselfForAnyIndex(t *testing.T) {
	t.Parallel()
	for _, kind := range everyKind {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			index, err := reg.PutIndex("app", "1", putImage(t, reg, "app", "", regtest.ImageSpec{}))
			if err != nil {
				t.Fatal(err)
			}
			top, manifest := attachIndex(t, reg, index, nil)
			k := newKey(t)
			k.attach(t, reg, "app", kind, manifest)
			policy := wantSignatures(k.store("ours"))
			if p := plan(t, newNegotiator(t, negotiate.Options{Policy: policy}), reg.Ref("app", "1")); p.Lazy() || p.Reason != reason.Unsigned {
				t.Errorf("lazy %t, %s: %s", p.Lazy(), p.Reason, p.Detail)
			}
			k.attach(t, reg, "app", kind, top)
			if p := plan(t, newNegotiator(t, negotiate.Options{Policy: policy}), reg.Ref("app", "1")); !p.Lazy() {
				t.Errorf("signed as a whole: %s: %s", p.Reason, p.Detail)
			}
		})
	}
}

// TestSignaturesOfEveryKindCount signs, with each kind, everything that covers a form.
func TestSignaturesOfEveryKindCount(t *testing.T) {
	t.Parallel()
	places := map[string]func(t *testing.T, reg *regtest.Registry, index ocispec.Descriptor, img *regtest.Image) ocispec.Descriptor{
		"artifact": func(t *testing.T, reg *regtest.Registry, _ ocispec.Descriptor, img *regtest.Image) ocispec.Descriptor {
			return form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
		},
		"accelerated index": func(t *testing.T, reg *regtest.Registry, index ocispec.Descriptor, _ *regtest.Image) ocispec.Descriptor {
			top, _ := attachIndex(t, reg, index, nil)
			return top
		},
		"manifest in the accelerated index": func(t *testing.T, reg *regtest.Registry, index ocispec.Descriptor, img *regtest.Image) ocispec.Descriptor {
			_, manifest := attachIndex(t, reg, index, &img.Descriptor)
			return manifest
		},
		"in place, image's index": func(_ *testing.T, _ *regtest.Registry, index ocispec.Descriptor, _ *regtest.Image) ocispec.Descriptor {
			return index
		},
		"in place, image's manifest": func(_ *testing.T, _ *regtest.Registry, _ ocispec.Descriptor, img *regtest.Image) ocispec.Descriptor {
			return img.Descriptor
		},
	}
	for _, kind := range everyKind {
		for place, put := range places {
			t.Run(string(kind)+" on "+place, func(t *testing.T) {
				t.Parallel()
				reg := regtest.New(t, regtest.Options{})
				img := putImage(t, reg, "app", "", regtest.ImageSpec{})
				index, err := reg.PutIndex("app", "1", img)
				if err != nil {
					t.Fatal(err)
				}
				target, k := put(t, reg, index, img), newKey(t)
				signature := k.attach(t, reg, "app", kind, target)
				recognisers := families()
				if strings.HasPrefix(place, "in place") {
					recognisers = families(inPlace{format: "stands"})
				}
				p := plan(t, newNegotiator(t, negotiate.Options{Recognisers: recognisers, Policy: wantSignatures(newKey(t).store("other"), k.store("ours"))}), reg.Ref("app", "1"))
				if !p.Lazy() || p.Chosen.Signer == nil || p.Chosen.Proof == nil {
					t.Fatalf("%s: %s, rejected %+v, requests %q", p.Reason, p.Detail, p.Rejected, requests(reg))
				}
				wantKind := kind
				if kind == byTag {
					wantKind = negotiate.SignatureCosign
				}
				want := negotiate.Signer{
					Trust: "ours", Kind: wantKind, Identity: string(digest.FromBytes(k.public())), Signature: signature.Digest,
					Target: negotiate.Target{Repository: reg.Host() + "/app", Descriptor: ocispec.Descriptor{
						MediaType: target.MediaType, Digest: target.Digest, Size: target.Size,
					}},
				}
				if diff := cmp.Diff(want, *p.Chosen.Signer); diff != "" {
					t.Errorf("signer (-want +got):\n%s", diff)
				}
				if proof := p.Chosen.Proof; proof.Artifact.Digest != signature.Digest || proof.Kind != wantKind || len(proof.Content) == 0 {
					t.Errorf("proof %+v", proof)
				}
				if err := p.Rules.StillVouched(t.Context(), p.Image.Repository, p.Chosen.Signer, p.Chosen.Proof); err != nil {
					t.Errorf("not vouched for a moment later: %v", err)
				}
			})
		}
	}
}

// TestSignatureOfTheImageDoesNotCoverWhatIsAttached: whoever may push to the
// repository can attach, so the reason says what is missing.
func TestSignatureOfTheImageDoesNotCoverWhatIsAttached(t *testing.T) {
	t.Parallel()
	for name, multi := range map[string]bool{"to its manifest": false, "to its index": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			subject := img.Descriptor
			if multi {
				var err error
				if subject, err = reg.PutIndex("app", "1", img); err != nil {
					t.Fatal(err)
				}
			}
			k := newKey(t)
			k.attach(t, reg, "app", negotiate.SignatureBundle, subject)
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", subject)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != reason.Unsigned || codes(p)[d.Digest] != reason.Unsigned || !strings.Contains(p.Detail, "the image is signed, this form of it is not") {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
		})
	}
}

func TestSignaturesThatDoNotCount(t *testing.T) {
	t.Parallel()
	const notation = negotiate.SignatureNotation
	k, stranger := newKey(t), newKey(t)
	other := digest.FromString("something else")
	always := func(status int, part string) func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
		return func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			k.attach(t, reg, "app", notation, d)
			reg.Inject(regtest.Fault{Match: regtest.Path(strings.Replace(part, "FORM", d.Digest.String(), 1)), Status: status})
		}
	}
	for name, tc := range map[string]struct {
		setup     func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor)
		kinds     []negotiate.SignatureKind // accepted; nil: all
		want      reason.Code
		detail    string
		noBlob    bool // none but the config may be asked for
		noAPI     bool
		verifiers bool // none are named
	}{
		"there is none": {func(*testing.T, *regtest.Registry, ocispec.Descriptor) {}, nil, reason.Unsigned, "policy prod wants a signature and it has none", true, false, false},
		"of something else": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			k.sign(t, notation, other).attach(t, reg, "app", d)
		}, nil, reason.SignatureInvalid, "trust store ours: it is of " + other.String(), false, false, false},
		"broken": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.setContent([]byte("{"))
			s.attach(t, reg, "app", d)
		}, nil, reason.SignatureInvalid, "trust store ours", false, false, false},
		"of a stranger": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			stranger.attach(t, reg, "app", notation, d)
		}, nil, reason.SignatureUntrusted, "no trusted key made it", false, false, false},
		"broken, and one of a stranger": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			stranger.attach(t, reg, "app", notation, d)
			s := k.sign(t, notation, other)
			s.created = "2026-01-01T00:00:00Z"
			s.attach(t, reg, "app", d)
		}, nil, reason.SignatureUntrusted, "no trusted key made it", false, false, false},
		"its manifest has another subject": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			signature := k.sign(t, notation, d.Digest).attach(t, reg, "app", putImage(t, reg, "app", "", regtest.ImageSpec{Seed: 7}).Descriptor)
			signature.ArtifactType = typeNotation
			listInTag(t, reg, d.Digest, signature)
		}, nil, reason.SubjectMismatch, "is not attached to", true, true, false},
		"its manifest has no subject": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.change = func(m map[string]any) { delete(m, "subject") }
			signature := s.attach(t, reg, "app", d)
			signature.ArtifactType = typeNotation
			listInTag(t, reg, d.Digest, signature)
		}, nil, reason.SubjectMismatch, "is not attached to", true, true, false},
		"two layers": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			k.sign(t, notation, d.Digest).attach(t, reg, "app", d, stranger.sign(t, notation, d.Digest))
		}, nil, reason.SignatureInvalid, "has 2 layers, not one", true, false, false},
		"no layers": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			signed{kind: negotiate.SignatureBundle}.attach(t, reg, "app", d)
		}, nil, reason.SignatureInvalid, "has 0 layers, not one", true, false, false},
		"content too large": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.setContent(append(s.content, bytes.Repeat([]byte(" "), 256<<10)...))
			s.attach(t, reg, "app", d)
		}, nil, reason.SizeMismatch, "more than the limit", true, false, false},
		"content larger than it says": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.setContent(append(s.content, bytes.Repeat([]byte(" "), 100<<10)...))
			s.layer.Size = 100
			s.attach(t, reg, "app", d)
		}, nil, reason.SizeMismatch, "longer than the 100 bytes", false, false, false},
		"manifest too large": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.change = func(m map[string]any) { m["annotations"] = map[string]string{"x": strings.Repeat("x", 1<<20)} }
			signature := s.attach(t, reg, "app", d)
			reg.Inject(regtest.Fault{Match: regtest.Path("/manifests/" + signature.Digest.String()), Status: 418}) // nobody asks
		}, nil, reason.SizeMismatch, "more than the limit", true, false, false},
		"content altered": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.attach(t, reg, "app", d)
			reg.Inject(regtest.Fault{Match: regtest.Path("/blobs/" + s.layer.Digest.String()), FlipAt: new(int64(12))})
		}, nil, reason.DigestMismatch, "hashes to", false, false, false},
		"content gone": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, notation, d.Digest)
			s.attach(t, reg, "app", d)
			reg.Inject(regtest.Fault{Match: regtest.Path("/blobs/" + s.layer.Digest.String()), Status: 404})
		}, nil, reason.NotFound, "read its signatures", false, false, false},
		"listed, but gone": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			signature := k.attach(t, reg, "app", notation, d)
			reg.Inject(regtest.Fault{Match: regtest.Path("/manifests/" + signature.Digest.String()), Status: 404})
		}, nil, reason.NotFound, "read its signatures", true, false, false},
		"their list fails":   {always(503, "/referrers/FORM"), nil, reason.RegistryError, "read its signatures", true, false, false},
		"their list is lost": {always(404, "/referrers/FORM"), nil, reason.Unsigned, "wants a signature", true, false, false},
		"cosign's tag fails": {func(_ *testing.T, reg *regtest.Registry, _ ocispec.Descriptor) {
			reg.Inject(regtest.Fault{Match: regtest.Path(".sig"), Status: 500})
		}, nil, reason.RegistryError, "read its signatures", true, false, false},
		"cosign's tag is forbidden": {func(_ *testing.T, reg *regtest.Registry, _ ocispec.Descriptor) {
			reg.Inject(regtest.Fault{Match: regtest.Path(".sig"), Status: 403})
		}, nil, reason.Unauthorized, "read its signatures", true, false, false},
		"an image under cosign's tag": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			putImage(t, reg, "app", tagOf(d.Digest)+".sig", regtest.ImageSpec{Seed: 3})
		}, nil, reason.Unsigned, "it has none", true, false, false},
		"an index under cosign's tag": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			if _, err := reg.PutIndex("app", tagOf(d.Digest)+".sig"); err != nil {
				t.Fatal(err)
			}
		}, nil, reason.Unsigned, "it has none", true, false, false},
		"something huge under cosign's tag": {func(_ *testing.T, reg *regtest.Registry, _ ocispec.Descriptor) {
			huge := answer(200, ocispec.MediaTypeImageManifest, strings.Repeat(" ", 1<<20+1))
			huge.Match = regtest.Path(".sig")
			reg.Inject(huge)
		}, nil, reason.RegistryError, "over the limit", true, false, false},
		"of a kind that nobody accepts": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			k.attach(t, reg, "app", notation, d)
		}, []negotiate.SignatureKind{negotiate.SignatureCosign}, reason.Unsigned, "it is signed with notation only, which no trust store of policy prod accepts", true, false, false},
		"of a kind that nobody accepts, seen in the manifest": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			signature := k.attach(t, reg, "app", notation, d)
			signature.ArtifactType = ""
			listInTag(t, reg, d.Digest, signature)
		}, []negotiate.SignatureKind{negotiate.SignatureBundle}, reason.Unsigned, "it is signed with notation only", true, true, false},
		"of somebody, where nobody is trusted": {func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			k.attach(t, reg, "app", notation, d)
		}, nil, reason.Unsigned, "names nobody to trust", true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			features := regtest.DefaultFeatures()
			features.Referrers = !tc.noAPI
			reg := regtest.New(t, regtest.Options{Features: &features})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			if tc.noAPI {
				listInTag(t, reg, img.Descriptor.Digest, d)
			}
			tc.setup(t, reg, d)
			policy := wantSignatures(k.store("ours", tc.kinds...))
			if tc.verifiers {
				policy = wantSignatures()
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: policy}), reg.Ref("app", "1"))
			if p.Lazy() || p.Reason != tc.want || !strings.Contains(p.Detail, tc.detail) {
				t.Fatalf("%s: %s, want %s: %s", p.Reason, p.Detail, tc.want, tc.detail)
			}
			if got := codes(p)[d.Digest]; got != tc.want {
				t.Errorf("rejected for %s", got)
			}
			if n := asked(reg, "/blobs/"); tc.noBlob && n != 1 {
				t.Errorf("%d blobs were asked for: %q", n, requests(reg))
			}
			if n, _ := reg.Count(func(e regtest.Entry) bool { return e.Status == 418 }); n != 0 {
				t.Error("the manifest was asked for although its size is known")
			}
		})
	}
}

// TestOneGoodSignatureIsEnough puts others beside it.
func TestOneGoodSignatureIsEnough(t *testing.T) {
	t.Parallel()
	k, stranger := newKey(t), newKey(t)
	other := digest.FromString("something else")
	for name, setup := range map[string]func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor){
		"the newest is of a stranger": func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := stranger.sign(t, negotiate.SignatureNotation, d.Digest)
			s.created = "2026-02-01T00:00:00Z"
			s.attach(t, reg, "app", d)
		},
		"the newest is of something else": func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := k.sign(t, negotiate.SignatureNotation, other)
			s.created = "2026-02-01T00:00:00Z"
			s.attach(t, reg, "app", d)
		},
		"the newest is gone": func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			s := stranger.sign(t, negotiate.SignatureNotation, d.Digest)
			s.created = "2026-02-01T00:00:00Z"
			gone := s.attach(t, reg, "app", d)
			reg.Inject(regtest.Fault{Match: regtest.Path(gone.Digest.String()), Status: 404})
		},
		"cosign's tag is forbidden": func(_ *testing.T, reg *regtest.Registry, _ ocispec.Descriptor) {
			reg.Inject(regtest.Fault{Match: regtest.Path(".sig"), Status: 403})
		},
		"many newer artifacts that do not say what they are": func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			for i := range 30 {
				form{layers: 1, created: "2026-02-01T00:00:00Z", change: func(m map[string]any) { m["x"] = i }}.attach(t, reg, "app", d)
			}
		},
		"many newer artifacts of other types": func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor) {
			for i := range 30 {
				form{artifactType: "application/spdx+json", created: "2026-02-01T00:00:00Z", change: func(m map[string]any) { m["x"] = i }}.attach(t, reg, "app", d)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			good := k.sign(t, negotiate.SignatureNotation, d.Digest)
			good.created = "2026-01-01T00:00:00Z"
			want := good.attach(t, reg, "app", d)
			setup(t, reg, d)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Signer.Signature != want.Digest {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
		})
	}
}

// TestCosignKeepsSeveralSignaturesInOneManifest adds them in the order of signing.
func TestCosignKeepsSeveralSignaturesInOneManifest(t *testing.T) {
	t.Parallel()
	k, stranger := newKey(t), newKey(t)
	for name, tc := range map[string]struct {
		before, after int // strangers' signatures
		want          bool
	}{
		"last of many":       {20, 0, true},
		"among the newest":   {20, 7, true},
		"long ago":           {0, 20, false},
		"the first of a few": {0, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			var all []signed
			for i := range tc.before + 1 + tc.after {
				signer := stranger
				if i == tc.before {
					signer = k
				}
				s := signer.sign(t, byTag, d.Digest)
				s.setContent(append(s.content, bytes.Repeat([]byte(" "), i)...))
				all = append(all, s)
			}
			all[0].attach(t, reg, "app", d, all[1:]...)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("app", "1"))
			if p.Lazy() != tc.want || !tc.want && p.Reason != reason.SignatureUntrusted {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			if n := asked(reg, "/blobs/"); n > 1+8 {
				t.Errorf("%d blobs were asked for", n)
			}
		})
	}
}

// TestSignaturesUnderTheFallbackTag has a registry without the referrers API and
// a client that writes no artifact types into its index.
func TestSignaturesUnderTheFallbackTag(t *testing.T) {
	t.Parallel()
	for _, kind := range everyKind[:3] {
		for name, artifactType := range map[string]bool{"with its artifact type": true, "without": false} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				t.Parallel()
				reg := regtest.New(t, regtest.Options{Features: &regtest.Features{}})
				img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
				d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
				listInTag(t, reg, img.Descriptor.Digest, d)
				k := newKey(t)
				signature := k.attach(t, reg, "app", kind, d)
				if artifactType {
					signature.ArtifactType = map[negotiate.SignatureKind]string{
						negotiate.SignatureNotation: typeNotation, negotiate.SignatureBundle: typeBundle, negotiate.SignatureCosign: typeCosign,
					}[kind]
				}
				listInTag(t, reg, d.Digest, signature)
				p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("app", "1"))
				if !p.Lazy() || p.Chosen.Signer.Signature != signature.Digest {
					t.Errorf("%s: %s", p.Reason, p.Detail)
				}
			})
		}
	}
}

// TestSignaturesAreRemembered plans twice with one negotiator.
func TestSignaturesAreRemembered(t *testing.T) {
	t.Parallel()
	for _, kind := range everyKind {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			k := newKey(t)
			k.attach(t, reg, "app", kind, d)
			n := newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))})
			plan(t, n, reg.Ref("app", "1"))
			reg.ResetRequests()
			p := plan(t, n, reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Signer == nil {
				t.Errorf("%s: %s", p.Reason, p.Detail)
			}
			want := []string{"/v2/app/manifests/1", "/v2/app/blobs/" + img.Manifest.Config.Digest.String()}
			if diff := cmp.Diff(want, requests(reg)); diff != "" {
				t.Errorf("requests of the second plan (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSignatureCostsThreeRequests asks no more than what the kinds need.
func TestSignatureCostsThreeRequests(t *testing.T) {
	t.Parallel()
	for kind, more := range map[negotiate.SignatureKind]int{
		negotiate.SignatureNotation: 3, // their list, the manifest, its blob
		byTag:                       3, // their list, the tag, its blob
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			k := newKey(t)
			k.attach(t, reg, "app", kind, d)
			store := k.store("ours", kind)
			if kind == byTag {
				store = k.store("ours", negotiate.SignatureCosign)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(store)}), reg.Ref("app", "1"))
			if n, _ := reg.Count(nil); !p.Lazy() || n != 4+more {
				t.Errorf("%s: %s, %d requests %q", p.Reason, p.Detail, n, requests(reg))
			}
		})
	}
}

// TestHangingSignatureCostsDiscoverysTimeOnly has a registry that never answers
// about signatures.
func TestHangingSignatureCostsDiscoverysTimeOnly(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, part := range map[string]string{
		"their list": "/referrers/FORM", "cosign's tag": ".sig", "the manifest": "/manifests/SIGNATURE", "its content": "/blobs/CONTENT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			s := k.sign(t, negotiate.SignatureBundle, d.Digest)
			signature := s.attach(t, reg, "app", d)
			part = strings.NewReplacer("FORM", d.Digest.String(), "SIGNATURE", signature.Digest.String(), "CONTENT", s.layer.Digest.String()).Replace(part)
			defer reg.Inject(regtest.Fault{Match: regtest.Path(part), Hang: true})()
			n := newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours")), DiscoveryTimeout: 300 * time.Millisecond})
			began := time.Now()
			p := plan(t, n, reg.Ref("app", "1"))
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if p.Lazy() || p.Reason != reason.BudgetExceeded || len(p.Image.ChainIDs) != 2 {
				t.Errorf("%s: %s, %d chain IDs", p.Reason, p.Detail, len(p.Image.ChainIDs))
			}
		})
	}
}

// TestNextFormIsTakenWhereTheFirstIsNotSigned ranks the unsigned one first.
func TestNextFormIsTakenWhereTheFirstIsNotSigned(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, tc := range map[string]struct {
		fault func(first ocispec.Descriptor) *regtest.Fault
		want  reason.Code
	}{
		"not signed": {func(ocispec.Descriptor) *regtest.Fault { return nil }, reason.Unsigned},
		"nobody knows whether it is": {func(first ocispec.Descriptor) *regtest.Fault {
			return &regtest.Fault{Match: regtest.Path("/referrers/" + first.Digest.String()), Status: 500}
		}, reason.RegistryError},
		"nobody says whether it is": {func(first ocispec.Descriptor) *regtest.Fault {
			return &regtest.Fault{Match: regtest.Path("/referrers/" + first.Digest.String()), Hang: true}
		}, reason.BudgetExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			first := form{artifactType: typeNative, layers: 2, created: "2026-02-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
			second := form{artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
			k.attach(t, reg, "app", negotiate.SignatureNotation, second)
			if fault := tc.fault(first); fault != nil {
				defer reg.Inject(*fault)()
			}
			n := newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours")), DiscoveryTimeout: time.Second})
			p := plan(t, n, reg.Ref("app", "1"))
			if !p.Lazy() || p.Chosen.Artifact.Digest != second.Digest || codes(p)[first.Digest] != tc.want {
				t.Errorf("%s: %s, chosen %+v, rejected %+v", p.Reason, p.Detail, p.Chosen, p.Rejected)
			}
		})
	}
}

// TestStillVouched judges a remembered signature by the rules of another day.
func TestStillVouched(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "team/app", "1", regtest.ImageSpec{})
	d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "team/app", img.Descriptor)
	k := newKey(t)
	k.attach(t, reg, "team/app", negotiate.SignatureNotation, d)
	p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("team/app", "1"))
	if !p.Lazy() {
		t.Fatalf("%s: %s", p.Reason, p.Detail)
	}
	signer, proof := p.Chosen.Signer, p.Chosen.Proof
	ours, theirs := k.store("ours"), k.store("ours")
	ours.repositories, theirs.repositories = reg.Host()+"/team/", reg.Host()+"/other/"
	expired := k.store("ours")
	expired.expired = true
	altered, elsewhere := *proof, *signer
	altered.Content = bytes.Replace(proof.Content, []byte(`"digest":"sha256:`), []byte(`"digest":"sha512:`), 1)
	elsewhere.Target.Descriptor.Digest = img.Descriptor.Digest
	for name, tc := range map[string]struct {
		stores []negotiate.Verifier
		signer *negotiate.Signer
		proof  *negotiate.Signature
		want   reason.Code
	}{
		"as before":                      {[]negotiate.Verifier{k.store("ours")}, signer, proof, reason.None},
		"by another name":                {[]negotiate.Verifier{newKey(t).store("new"), k.store("renamed")}, signer, proof, reason.None},
		"for the team":                   {[]negotiate.Verifier{ours}, signer, proof, reason.None},
		"no longer for the team":         {[]negotiate.Verifier{theirs}, signer, proof, reason.SignatureUntrusted},
		"expired":                        {[]negotiate.Verifier{expired}, signer, proof, reason.SignatureUntrusted},
		"another key":                    {[]negotiate.Verifier{newKey(t).store("ours")}, signer, proof, reason.SignatureUntrusted},
		"a kind not accepted any more":   {[]negotiate.Verifier{k.store("ours", negotiate.SignatureCosign)}, signer, proof, reason.SignatureUntrusted},
		"nobody is trusted any more":     {nil, signer, proof, reason.SignatureUntrusted},
		"the proof was altered":          {[]negotiate.Verifier{k.store("ours")}, signer, &altered, reason.SignatureInvalid},
		"the record was altered":         {[]negotiate.Verifier{k.store("ours")}, &elsewhere, proof, reason.SignatureInvalid},
		"nobody signed":                  {[]negotiate.Verifier{k.store("ours")}, nil, nil, reason.Unsigned},
		"somebody signed, without proof": {[]negotiate.Verifier{k.store("ours")}, signer, nil, reason.Unsigned},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := &negotiate.Rules{Name: "prod", RequireSignature: true, Verifiers: tc.stores}
			if err := rules.StillVouched(t.Context(), p.Image.Repository, tc.signer, tc.proof); reason.Of(err) != tc.want {
				t.Errorf("got %v (%s), want %q", err, reason.Of(err), tc.want)
			}
		})
	}
	if n := len(reg.Requests()); n == 0 || slices.ContainsFunc(reg.Requests(), func(e regtest.Entry) bool { return e.Method != http.MethodGet }) {
		t.Errorf("requests %q", requests(reg))
	}
}
