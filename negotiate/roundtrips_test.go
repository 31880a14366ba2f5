package negotiate_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// depth is the length of the longest chain of requests each of which began after
// the one before had been answered: what a pull waits for, in round trips.
func depth(log []regtest.Entry) int {
	slices.SortFunc(log, func(a, b regtest.Entry) int { return a.Start.Add(a.Took).Compare(b.Start.Add(b.Took)) })
	longest := make([]int, len(log))
	for i, e := range log {
		longest[i] = 1
		for j, before := range log[:i] {
			if !before.Start.Add(before.Took).After(e.Start) {
				longest[i] = max(longest[i], longest[j]+1)
			}
		}
	}
	return slices.Max(longest)
}

// TestRoundTrips counts what a plan costs on a warm connection. An ordinary pull
// asks for index, if there is one, manifest and config, one after the other:
// looking for forms adds one round trip to that without an index and none with
// one, or where the list brings the form's manifest; signatures add two more.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		index, attached, carried, signed bool
		want                             int
		requests                         int
	}{
		"nothing attached": {want: 2, requests: 3},
		// manifest → (config ‖ referrers) → artifact
		"one manifest": {attached: true, want: 3, requests: 4},
		// manifest → (config ‖ referrers with the artifact)
		"one manifest, carried": {attached: true, carried: true, want: 2, requests: 3},
		// index → (manifest ‖ referrers) → (config ‖ artifact)
		"an index": {attached: true, index: true, want: 3, requests: 5},
		// … → (artifact ‖ its referrers) → signature's manifest → its blob
		"one manifest, signed": {attached: true, signed: true, want: 5, requests: 7},
		// manifest → (config ‖ referrers) → the artifact's referrers → signature's manifest → its blob
		"one manifest, carried and signed": {attached: true, carried: true, signed: true, want: 5, requests: 6},
		"an index, signed":                 {attached: true, signed: true, index: true, want: 5, requests: 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			if tc.index {
				if _, err := reg.PutIndex("app", "1", img); err != nil {
					t.Fatal(err)
				}
			}
			if tc.attached {
				attach := form.attach
				if tc.carried {
					attach = form.attachCarried
				}
				d := attach(form{artifactType: typeNative, layers: 2}, t, reg, "app", img.Descriptor)
				envelope, err := reg.PutBlob("application/jose+json", []byte(`{}`))
				if err != nil {
					t.Fatal(err)
				}
				form{artifactType: "application/vnd.cncf.notary.signature", change: withLayers(envelope)}.attach(t, reg, "app", d)
			}
			rules := negotiate.Rules{}
			if tc.signed {
				rules = negotiate.Rules{RequireSignature: true, Verifiers: []negotiate.Verifier{believer{}}}
			}
			client := registry.New(registry.Options{HostDirs: []string{t.TempDir()}})
			t.Cleanup(func() { _ = client.Close() })
			once := func() { // nothing is remembered but connections
				n := negotiate.New(negotiate.Options{Client: client, Policy: negotiate.Uniform(rules)})
				defer n.Close()
				if p := plan(t, n, reg.Ref("app", "1")); p.Lazy() != tc.attached {
					t.Fatalf("%s: %s", p.Reason, p.Detail)
				}
			}
			once()
			// So long that requests made together overlap, however busy the machine is.
			reg.Inject(regtest.Fault{Latency: 250 * time.Millisecond})
			reg.ResetRequests()
			once()
			log := reg.Requests()
			if got := depth(log); got != tc.want || len(log) != tc.requests {
				t.Errorf("%d round trips, want %d: %q", got, tc.want, requests(reg))
			}
		})
	}
}

// TestCosignTagIsAskedBeside: the tag under which older cosign signs costs no
// round trip of its own.
func TestCosignTagIsAskedBeside(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
	d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", img.Descriptor)
	tag, list := hang(reg, "/manifests/"+tagOf(d.Digest)+".sig"), hang(reg, "/referrers/"+d.Digest.String())
	artifact := hang(reg, "/manifests/"+d.Digest.String())
	rules := negotiate.Rules{RequireSignature: true, Verifiers: []negotiate.Verifier{cosignBeliever{}}}
	n := newNegotiator(t, negotiate.Options{Policy: negotiate.Uniform(rules), DiscoveryTimeout: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := n.Plan(ctx, negotiate.Request{Reference: reg.Ref("app", "1"), Platform: amd64})
		done <- err
	}()
	for _, asked := range []<-chan struct{}{artifact, list, tag} {
		<-asked
	}
	cancel()
	if err := <-done; err != nil && reason.Of(err) != reason.Cancelled {
		t.Error(err)
	}
}

type cosignBeliever struct{ believer }

func (cosignBeliever) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureCosign
}

// TestDigestsOfOtherAlgorithms pulls by SHA-512, asks for what is attached to
// that digest, and falls back to a tag cut to its first 64 characters (section 2.5).
func TestDigestsOfOtherAlgorithms(t *testing.T) {
	t.Parallel()
	for name, features := range map[string]regtest.Features{"API": {Referrers: true}, "tag": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{Features: &features})
			img := putImage(t, reg, "app", "1", regtest.ImageSpec{})
			raw, err := json.Marshal(img.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			subject := img.Descriptor
			subject.Digest = digest.SHA512.FromBytes(raw)
			if _, err := reg.PutManifest("app", subject.Digest.String(), subject.MediaType, raw); err != nil {
				t.Fatal(err)
			}
			d := form{artifactType: typeNative, layers: 2}.attach(t, reg, "app", subject)
			d.ArtifactType = typeNative
			cut := "sha512-" + subject.Digest.Encoded()[:64]
			if name == "tag" {
				listUnder(t, reg, cut, d)
			}
			p := plan(t, newNegotiator(t, negotiate.Options{}), reg.Ref("app", subject.Digest.String()))
			if !p.Lazy() || p.Chosen.Artifact.Digest != d.Digest || p.Chosen.Subject != subject.Digest || p.Image.Manifest.Digest != subject.Digest {
				t.Fatalf("%s: %s: %q", p.Reason, p.Detail, requests(reg))
			}
			if asked := strings.Join(requests(reg), "\n"); !strings.Contains(asked, map[string]string{"API": "/referrers/" + subject.Digest.String(), "tag": "/manifests/" + cut}[name]) {
				t.Errorf("requests %s", asked)
			}
		})
	}
}
