package negotiate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// The attacks of this file have one aim: that a node runs what its operator does
// not trust, or that a pull takes more than its share. Whatever they achieve, the
// plan must be an ordinary pull or one of the publisher's own form.

// serveList makes the registry answer with these referrers of subject.
func serveList(t *testing.T, reg *regtest.Registry, subject digest.Digest, entries ...ocispec.Descriptor) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": entries})
	if err != nil {
		t.Fatal(err)
	}
	fault := answer(200, ocispec.MediaTypeImageIndex, string(body))
	fault.Match = regtest.Path("/referrers/" + subject.String())
	reg.Inject(fault)
}

// throughMirror is a negotiator that asks mirror, as far as capabilities go,
// before origin for what is in registry.example.
func throughMirror(t *testing.T, opts negotiate.Options, origin, mirror, capabilities string) *negotiate.Negotiator {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "registry.example")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [%s]\n", origin, mirror, capabilities)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Client = registry.New(registry.Options{HostDirs: []string{root}})
	t.Cleanup(func() { _ = opts.Client.Close() })
	return negotiate.New(opts)
}

// ordinary checks that nothing was chosen, and why.
func ordinary(t *testing.T, p *negotiate.Plan, want reason.Code) {
	t.Helper()
	if p.Lazy() || len(p.Vouched) != 0 || p.Reason != want {
		t.Errorf("%s: %s, want %s; chosen %+v, vouched %v", p.Reason, p.Detail, want, p.Chosen, p.Vouched)
	}
}

// TestAttackFormOfAnotherImage: somebody may write the list, but not sign, and
// lists the rightly signed form of an older image for a newer one.
func TestAttackFormOfAnotherImage(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	older := putImage(t, reg, "app", "1", regtest.ImageSpec{Seed: 1})
	newer := putImage(t, reg, "app", "2", regtest.ImageSpec{Seed: 2})
	k := newKey(t)
	d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", older.Descriptor)
	k.attach(t, reg, "app", negotiate.SignatureNotation, d)
	d.ArtifactType = typeNative
	serveList(t, reg, newer.Descriptor.Digest, d)
	n := newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))})
	if p := plan(t, n, reg.Ref("app", "1")); !p.Lazy() {
		t.Errorf("the older image itself: %s: %s", p.Reason, p.Detail)
	}
	ordinary(t, plan(t, n, reg.Ref("app", "2")), reason.SubjectMismatch)
}

// TestAttackFormCopiedFromAnotherRepository: somebody copies an image with its
// form and its signature to where its signer has nothing to say.
func TestAttackFormCopiedFromAnotherRepository(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	k := newKey(t)
	store := k.store("vendor")
	store.repositories = reg.Host() + "/vendor/"
	n := newNegotiator(t, negotiate.Options{Policy: wantSignatures(store)})
	for repo, want := range map[string]reason.Code{"vendor/app": reason.None, "team/app": reason.SignatureUntrusted} {
		img := putImage(t, reg, repo, "1", regtest.ImageSpec{})
		d := form{artifactType: typeNative, layers: 2}.attach(t, reg, repo, img.Descriptor)
		k.attach(t, reg, repo, negotiate.SignatureNotation, d)
		if p := plan(t, n, reg.Ref(repo, "1")); p.Reason != want || p.Lazy() != (want == reason.None) {
			t.Errorf("%s: %s: %s, want %q", repo, p.Reason, p.Detail, want)
		}
	}
}

// TestAttackListOfAnotherRepository: what is attached to the same image in one
// repository says nothing about another, even if a plan has just seen it.
func TestAttackListOfAnotherRepository(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	n := newNegotiator(t, negotiate.Options{})
	img := putImage(t, reg, "evil", "1", regtest.ImageSpec{})
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "evil", img.Descriptor)
	putImage(t, reg, "app", "1", regtest.ImageSpec{})
	if p := plan(t, n, reg.Ref("evil", "1")); !p.Lazy() {
		t.Errorf("where it is attached: %s: %s", p.Reason, p.Detail)
	}
	ordinary(t, plan(t, n, reg.Ref("app", "1")), reason.NoReferrers)
}

// TestAttackTagMovedMeanwhile: the tag is given to another image, which has a
// form, just before the list of referrers is asked for.
func TestAttackTagMovedMeanwhile(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	other := putImage(t, reg, "app", "2", regtest.ImageSpec{Seed: 2})
	form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", other.Descriptor)
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{Seed: 1})
	var once sync.Once
	list := regtest.Path("/referrers/")
	reg.Inject(regtest.Fault{Match: func(req *http.Request) bool {
		if list(req) {
			once.Do(func() { putImage(t, reg, "app", "1", regtest.ImageSpec{Seed: 2}) })
		}
		return false
	}})
	n := newNegotiator(t, negotiate.Options{})
	p := plan(t, n, reg.Ref("app", "1"))
	ordinary(t, p, reason.NoReferrers)
	if p.Image.Manifest.Digest != img.Descriptor.Digest {
		t.Errorf("planned for %s, resolved %s", p.Image.Manifest.Digest, img.Descriptor.Digest)
	}
	if p = plan(t, n, reg.Ref("app", "1")); !p.Lazy() || p.Chosen.Subject != other.Descriptor.Digest || p.Image.Manifest.Digest != other.Descriptor.Digest {
		t.Errorf("after the move: %s: %s, image %s", p.Reason, p.Detail, p.Image.Manifest.Digest)
	}
}

// TestAttackMirrorLies: a mirror is trusted with content by digest and with
// lists. It has a faithful copy but for one lie.
func TestAttackMirrorLies(t *testing.T) {
	t.Parallel()
	const pull, lists = `"pull"`, `"pull", "referrers"`
	k, stranger := newKey(t), newKey(t)
	type scene struct {
		mirror          *regtest.Registry
		img             *regtest.Image
		form, signature ocispec.Descriptor
	}
	lie := func(part string, s scene) func(*http.Request) bool {
		return regtest.Path(strings.NewReplacer("IMAGE", s.img.Descriptor.Digest.String(), "FORM", s.form.Digest.String(), "SIGNATURE", s.signature.Digest.String()).Replace(part))
	}
	for name, tc := range map[string]struct {
		capabilities string
		tell         func(t *testing.T, s scene)
		want         reason.Code
	}{
		"the truth":                         {lists, func(*testing.T, scene) {}, reason.None},
		"nothing is attached":               {lists, func(t *testing.T, s scene) { serveList(t, s.mirror, s.img.Descriptor.Digest) }, reason.NoReferrers},
		"nobody signed":                     {lists, func(t *testing.T, s scene) { serveList(t, s.mirror, s.form.Digest) }, reason.Unsigned},
		"nothing is attached, not its task": {pull, func(t *testing.T, s scene) { serveList(t, s.mirror, s.img.Descriptor.Digest) }, reason.None},
		"another form": {lists, func(t *testing.T, s scene) {
			evil := form{artifactType: typeNative, layers: 2, seed: "evil"}.attach(t, s.mirror, "app", s.img.Descriptor)
			evil.ArtifactType = typeNative
			serveList(t, s.mirror, s.img.Descriptor.Digest, evil)
		}, reason.Unsigned},
		"another form, signed by the mirror": {lists, func(t *testing.T, s scene) {
			evil := form{artifactType: typeNative, layers: 2, seed: "evil"}.attach(t, s.mirror, "app", s.img.Descriptor)
			stranger.attach(t, s.mirror, "app", negotiate.SignatureNotation, evil)
			evil.ArtifactType = typeNative
			serveList(t, s.mirror, s.img.Descriptor.Digest, evil)
		}, reason.SignatureUntrusted},
		"another form, newer, beside the right one": {lists, func(t *testing.T, s scene) {
			form{artifactType: typeNative, layers: 2, seed: "evil", created: "2030-01-01T00:00:00Z"}.attach(t, s.mirror, "app", s.img.Descriptor)
		}, reason.None},
		"other content for the form": {pull, func(_ *testing.T, s scene) {
			s.mirror.Inject(regtest.Fault{Match: lie("/manifests/FORM", s), FlipAt: new(int64(40))})
		}, reason.DigestMismatch},
		"other content for the signature": {lists, func(_ *testing.T, s scene) {
			s.mirror.Inject(regtest.Fault{Match: lie("/manifests/SIGNATURE", s), FlipAt: new(int64(40))})
		}, reason.DigestMismatch},
		"a signature that is not there": {lists, func(_ *testing.T, s scene) {
			s.mirror.Inject(regtest.Fault{Match: lie("/manifests/SIGNATURE", s), Status: 404})
		}, reason.None}, // the origin has it
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			origin := regtest.New(t, regtest.Options{})
			s := scene{mirror: regtest.New(t, regtest.Options{})}
			for _, reg := range []*regtest.Registry{origin, s.mirror} {
				s.img = putImage(t, reg, "app", "1", regtest.ImageSpec{})
				s.form = form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", s.img.Descriptor)
				s.signature = k.attach(t, reg, "app", negotiate.SignatureNotation, s.form)
			}
			tc.tell(t, s)
			opts := negotiate.Options{Policy: wantSignatures(k.store("ours"))}
			p := plan(t, throughMirror(t, opts, origin.URL(), s.mirror.URL(), tc.capabilities), "registry.example/app:1")
			if tc.want == reason.None {
				if !p.Lazy() || p.Chosen.Artifact.Digest != s.form.Digest || p.Chosen.Signer.Signature != s.signature.Digest {
					t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
				}
				return
			}
			ordinary(t, p, tc.want)
		})
	}
}

// TestAttackListWithoutEnd: a mirror sends a list of referrers that never ends.
func TestAttackListWithoutEnd(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		text := []byte(`{"schemaVersion":2,"manifests":[`)
		for more := bytes.Repeat([]byte(`{},`), 1<<12); ; text = more {
			n, err := w.Write(text)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	origin := regtest.New(t, regtest.Options{})
	img := putImage(t, origin, "app", "1", regtest.ImageSpec{})
	form{artifactType: typeNative, layers: 2}.attach(t, origin, "app", img.Descriptor)
	n := throughMirror(t, negotiate.Options{}, origin.URL(), endless.URL, `"referrers"`)
	ordinary(t, plan(t, n, "registry.example/app:1"), reason.RegistryError)
	endless.Close() // waits for the handler
	if got := sent.Load(); got > 32<<20 {
		t.Errorf("%d bytes were taken", got)
	}
}

// TestAttackIndexWithoutEnd: indexes in indexes, deeper than anybody needs.
func TestAttackIndexWithoutEnd(t *testing.T) {
	t.Parallel()
	nest := func(t *testing.T, reg *regtest.Registry, d ocispec.Descriptor, depth int, subject *ocispec.Descriptor, tag string) {
		t.Helper()
		for i := range depth {
			d.Platform = amd64
			m := map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{d}}
			name := ""
			if i == depth-1 {
				name = tag
				if subject != nil {
					m["subject"], m["artifactType"] = subject, typeNative
				}
			}
			var err error
			if d, err = reg.PutJSON("app", name, ocispec.MediaTypeImageIndex, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		depth int
		want  reason.Code
	}{"as deep as can be": {6, reason.None}, "deeper": {7, reason.OtherPlatform}, "endless": {50, reason.OtherPlatform}} {
		t.Run("form, "+name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "", regtest.ImageSpec{})
			index, err := reg.PutIndex("app", "1", img)
			if err != nil {
				t.Fatal(err)
			}
			mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, reg, nil)
			d, err := reg.PutJSON("app", "", mediaType, m)
			if err != nil {
				t.Fatal(err)
			}
			nest(t, reg, d, tc.depth, &index, "")
			if p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1")); p.Reason != tc.want {
				t.Errorf("%s: %s, want %q", p.Reason, p.Detail, tc.want)
			}
			if n, _ := reg.Count(nil); n > 5+1+6 {
				t.Errorf("%d requests", n)
			}
		})
		t.Run("image, "+name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			nest(t, reg, putImage(t, reg, "app", "", regtest.ImageSpec{}).Descriptor, tc.depth, nil, "1")
			_, err := newNegotiator(t, negotiate.Options{}).Plan(t.Context(), negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
			if reason.Of(err) != tc.want {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if n, _ := reg.Count(nil); n > 1+6+3 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestAttackSignatureTakenFromElsewhere: somebody without a key attaches to a form
// of his own whatever signatures there are.
func TestAttackSignatureTakenFromElsewhere(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for _, kind := range everyKind {
		for name, tc := range map[string]struct {
			store func() *trustStore
			take  func(t *testing.T, good, evil ocispec.Descriptor) signed
			want  reason.Code
		}{
			"of the right form": {
				func() *trustStore { return k.store("ours") },
				func(t *testing.T, good, _ ocispec.Descriptor) signed { return k.sign(t, kind, good.Digest) },
				reason.SignatureInvalid,
			},
			"of the right form, the digest replaced": {
				func() *trustStore { return k.store("ours") },
				func(t *testing.T, good, evil ocispec.Descriptor) signed {
					s := k.sign(t, kind, good.Digest)
					s.setContent(bytes.ReplaceAll(s.content, []byte(good.Digest), []byte(evil.Digest)))
					return s
				},
				reason.SignatureUntrusted,
			},
			"by a key of his own": {
				func() *trustStore { return k.store("ours") },
				func(t *testing.T, _, evil ocispec.Descriptor) signed { return newKey(t).sign(t, kind, evil.Digest) },
				reason.SignatureUntrusted,
			},
			"by a key that was trusted once": {
				func() *trustStore { s := k.store("ours"); s.expired = true; return s },
				func(t *testing.T, _, evil ocispec.Descriptor) signed { return k.sign(t, kind, evil.Digest) },
				reason.SignatureUntrusted,
			},
		} {
			t.Run(string(kind)+", "+name, func(t *testing.T) {
				t.Parallel()
				reg := regtest.New(t, regtest.Options{})
				img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
				mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, reg, &img.Descriptor)
				good, err := reg.PutJSON("elsewhere", "", mediaType, m)
				if err != nil {
					t.Fatal(err)
				}
				evil := form{artifactType: typeNative, layers: 2, seed: "evil"}.attach(t, reg, "app", img.Descriptor)
				tc.take(t, good, evil).attach(t, reg, "app", evil)
				ordinary(t, plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(tc.store())}), reg.Ref("app", "1")), tc.want)
			})
		}
	}
}

// TestAttackDowngrade: somebody who may push, or the registry, hides what is
// signed and offers what is not.
func TestAttackDowngrade(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, tc := range map[string]struct {
		hide func(t *testing.T, reg *regtest.Registry, img *regtest.Image, good, evil ocispec.Descriptor)
		want reason.Code // None: the good one is taken all the same
	}{
		"offered as newer": {func(*testing.T, *regtest.Registry, *regtest.Image, ocispec.Descriptor, ocispec.Descriptor) {}, reason.None},
		"the good one is not listed": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, _, evil ocispec.Descriptor) {
			serveList(t, reg, img.Descriptor.Digest, evil)
		}, reason.Unsigned},
		"its signature is not listed": {func(t *testing.T, reg *regtest.Registry, _ *regtest.Image, good, _ ocispec.Descriptor) {
			serveList(t, reg, good.Digest)
		}, reason.Unsigned},
		"its signature is out of reach": {func(_ *testing.T, reg *regtest.Registry, _ *regtest.Image, good, _ ocispec.Descriptor) {
			reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/" + good.Digest.String()), Drop: true})
		}, reason.Unsigned}, // that is the evil one's reason, which is ranked first
		"the list is out of reach, the tag offers": {func(t *testing.T, reg *regtest.Registry, img *regtest.Image, _, evil ocispec.Descriptor) {
			reg.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Status: 404})
			listInTag(t, reg, img.Descriptor.Digest, evil)
		}, reason.Unsigned},
		"it offers the signature of the good one": {func(t *testing.T, reg *regtest.Registry, _ *regtest.Image, good, evil ocispec.Descriptor) {
			signature := k.attach(t, reg, "app", negotiate.SignatureNotation, good)
			signature.ArtifactType = typeNotation
			serveList(t, reg, evil.Digest, signature)
			serveList(t, reg, good.Digest)
		}, reason.SubjectMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			good := form{artifactType: typeNative, layers: 2, created: "2026-01-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
			k.attach(t, reg, "app", negotiate.SignatureNotation, good)
			evil := form{artifactType: typeNative, layers: 2, seed: "evil", created: "2030-01-01T00:00:00Z"}.attach(t, reg, "app", img.Descriptor)
			good.ArtifactType, evil.ArtifactType = typeNative, typeNative
			tc.hide(t, reg, img, good, evil)
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours"))}), reg.Ref("app", "1"))
			if tc.want == reason.None {
				if !p.Lazy() || p.Chosen.Artifact.Digest != good.Digest {
					t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
				}
				return
			}
			ordinary(t, p, tc.want)
		})
	}
}

// TestAttackFloodOfSignatures: a thousand signatures of the largest size, on
// eight forms, so that the node asks and reads without end.
func TestAttackFloodOfSignatures(t *testing.T) {
	t.Parallel()
	const forms = 8
	k, stranger := newKey(t), newKey(t)
	flood := func(size int64) []ocispec.Descriptor {
		entries := make([]ocispec.Descriptor, 1000)
		for i := range entries {
			entries[i] = ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, ArtifactType: typeNotation, Size: size,
				Digest: digest.FromString(fmt.Sprint("flood", i)),
			}
		}
		return entries
	}
	for name, tc := range map[string]struct {
		entries  []ocispec.Descriptor // none: all in one cosign manifest
		size     int                  // that they have
		want     reason.Code
		requests int   // about signatures, of each form
		bytes    int64 // of each form's
	}{
		"they are 4 MiB": {flood(4 << 20), 4 << 20, reason.SizeMismatch, 2, 0},
		// No more than a connection's buffers is taken; the server cannot tell.
		"they are 4 MiB and say 4 KiB": {flood(4 << 10), 4 << 20, reason.SizeMismatch, 2 + 8, 8 * 4 << 20},
		"they are 512 KiB":             {flood(512 << 10), 512 << 10, reason.DigestMismatch, 2 + 8, 8 * 512 << 10},
		"in one cosign manifest":       {nil, 0, reason.SignatureUntrusted, 2 + 8, 512<<10 + 8*256<<10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			var attached []ocispec.Descriptor
			for i := range forms {
				d := form{artifactType: typeNative, layers: 2, seed: fmt.Sprint(i)}.attach(t, reg, "app", img.Descriptor)
				attached = append(attached, d)
				if tc.entries != nil {
					serveList(t, reg, d.Digest, tc.entries...)
					continue
				}
				s := stranger.sign(t, byTag, d.Digest)
				s.setContent(append(s.content, bytes.Repeat([]byte(" "), 256<<10-len(s.content))...))
				s.change = func(m map[string]any) { m["layers"] = slices.Repeat(layersOf(m), 999) }
				s.attach(t, reg, "app", d)
			}
			ofForms := func(path string) bool {
				return slices.ContainsFunc(attached, func(d ocispec.Descriptor) bool { return strings.HasSuffix(path, "/manifests/"+d.Digest.String()) })
			}
			if tc.entries != nil { // whichever is asked for
				huge := answer(200, ocispec.MediaTypeImageManifest, strings.Repeat(" ", tc.size))
				huge.Match = func(req *http.Request) bool {
					return strings.Contains(req.URL.Path, "/manifests/sha256:") && !ofForms(req.URL.Path)
				}
				reg.Inject(huge)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{Policy: wantSignatures(k.store("ours")), DiscoveryTimeout: time.Minute}), reg.Ref("app", "1"))
			ordinary(t, p, tc.want)
			requests, got := reg.Count(func(e regtest.Entry) bool {
				return !ofForms(e.Path) && !strings.Contains(e.Path, img.Descriptor.Digest.String()) &&
					!strings.HasSuffix(e.Path, "/manifests/1") && !strings.Contains(e.Path, img.Manifest.Config.Digest.String())
			})
			const list = 256 << 10
			if requests > forms*tc.requests || got > forms*(tc.bytes+list) {
				t.Errorf("%d requests of %d, %d bytes of %d", requests, forms*tc.requests, got, forms*(tc.bytes+list))
			}
		})
	}
}

// TestAttackDigestOfAnotherAlgorithm: an entry names its artifact by SHA-512, or by
// something that looks like a digest.
func TestAttackDigestOfAnotherAlgorithm(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, tc := range map[string]struct {
		digest func(content []byte) digest.Digest
		signed bool // signatures are wanted; one of the SHA-256 digest is there
		want   reason.Code
		asked  bool
	}{
		"of the content":                    {digest.SHA512.FromBytes, false, reason.None, true},
		"of the content, signed by SHA-256": {digest.SHA512.FromBytes, true, reason.Unsigned, true},
		"of other content":                  {func([]byte) digest.Digest { return digest.SHA512.FromString("x") }, false, reason.DigestMismatch, true},
		"as long as SHA-256":                {func(b []byte) digest.Digest { return "sha512:" + digest.Digest(digest.FromBytes(b).Encoded()) }, false, reason.NoReferrers, false},
		"SHA-256 as long as SHA-512":        {func(b []byte) digest.Digest { return "sha256:" + digest.Digest(digest.SHA512.FromBytes(b).Encoded()) }, false, reason.NoReferrers, false},
		"MD5":                               {func([]byte) digest.Digest { return "md5:d41d8cd98f00b204e9800998ecf8427e" }, false, reason.NoReferrers, false},
		"upper case":                        {func(b []byte) digest.Digest { return digest.Digest(strings.ToUpper(digest.FromBytes(b).String())) }, false, reason.NoReferrers, false},
		"a path":                            {func([]byte) digest.Digest { return "sha256:../../../../v2/evil/manifests/1" }, false, reason.NoReferrers, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			mediaType, m := form{artifactType: typeNative, layers: 2}.manifest(t, reg, &img.Descriptor)
			content, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			d, err := reg.PutManifest("app", "", mediaType, content)
			if err != nil {
				t.Fatal(err)
			}
			var opts negotiate.Options
			if tc.signed {
				k.attach(t, reg, "app", negotiate.SignatureNotation, d)
				opts.Policy = wantSignatures(k.store("ours"))
			}
			d.ArtifactType, d.Digest = typeNative, tc.digest(content)
			serveList(t, reg, img.Descriptor.Digest, d)
			fault := answer(200, mediaType, string(content))
			fault.Match = func(req *http.Request) bool {
				return strings.Contains(strings.ToLower(req.URL.Path), strings.ToLower("/manifests/"+d.Digest.String()))
			}
			reg.Inject(fault)
			p := plan(t, newNegotiator(t, opts), reg.Ref("app", "1"))
			if tc.want != reason.None {
				ordinary(t, p, tc.want)
			} else if !p.Lazy() || p.Chosen.Artifact.Digest != d.Digest {
				t.Errorf("%s: %s, chosen %+v", p.Reason, p.Detail, p.Chosen)
			}
			if n := asked(reg, "/manifests/"); (n > 1) != tc.asked {
				t.Errorf("requests %q", requests(reg))
			}
		})
	}
}

// TestAttackSizeLies: an entry is right but for its size.
func TestAttackSizeLies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		size  func(right int64) int64
		want  reason.Code
		asked bool
	}{
		"right":         {func(n int64) int64 { return n }, reason.None, true},
		"one less":      {func(n int64) int64 { return n - 1 }, reason.SizeMismatch, true},
		"one more":      {func(n int64) int64 { return n + 1 }, reason.SizeMismatch, true},
		"nothing":       {func(int64) int64 { return 0 }, reason.SizeMismatch, true},
		"all there is":  {func(int64) int64 { return math.MaxInt64 }, reason.SizeMismatch, false},
		"just too much": {func(int64) int64 { return 4<<20 + 1 }, reason.SizeMismatch, false},
		"negative":      {func(int64) int64 { return -1 }, reason.NoReferrers, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
			d.ArtifactType, d.Size = typeNative, tc.size(d.Size)
			serveList(t, reg, img.Descriptor.Digest, d)
			if p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", "1")); p.Reason != tc.want {
				t.Errorf("%s: %s, want %q", p.Reason, p.Detail, tc.want)
			}
			if n := asked(reg, "/manifests/"+d.Digest.String()); (n > 0) != tc.asked {
				t.Errorf("%d requests for the artifact", n)
			}
		})
	}
}
