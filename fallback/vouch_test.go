package fallback_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// signedBy is a verifier that knows one signature.
type signedBy struct{ content string }

func (signedBy) Name() string                         { return "release" }
func (signedBy) Accepts(negotiate.SignatureKind) bool { return true }
func (v signedBy) Verify(_ context.Context, target negotiate.Target, s negotiate.Signature) (negotiate.Signer, error) {
	if string(s.Content) != v.content || target.Repository != "registry.example/app" {
		return negotiate.Signer{}, reason.Errorf(reason.SignatureUntrusted, "signer is not trusted for %s", target.Repository)
	}
	return negotiate.Signer{Identity: "CN=release"}, nil
}

// TestLayersOfAnotherRepository: what stands on the word of another repository
// serves this one only if it, or a signer it trusts, confirms that; else the
// original layers take its place, before the pull can see it.
func TestLayersOfAnotherRepository(t *testing.T) {
	t.Parallel()
	form := digest.FromString("artifact")
	foreign := fallback.Standing{Chain: chains[len(chains)-1], Volume: "volume-2", Repository: "registry.example/other", Artifact: form}
	with := func(change func(*fallback.Standing)) []fallback.Standing {
		s := foreign
		change(&s)
		return []fallback.Standing{s}
	}
	signed := func(s *fallback.Standing) {
		s.Signer, s.Proof = &negotiate.Signer{Target: negotiate.Target{Descriptor: ocispec.Descriptor{Digest: form}}}, &negotiate.Signature{Content: []byte("good")}
	}
	ordinary := func(context.Context) (*negotiate.Plan, error) {
		return ordinaryPlan(reason.NoReferrers, "nothing is attached"), nil
	}
	noFetch := errors.New("registry does not serve the layer")
	for name, tc := range map[string]struct {
		stands   []fallback.Standing
		plan     func(context.Context) (*negotiate.Plan, error)
		verifier string // the content that the policy's trust store accepts
		restore  error
		want     []string // calls that matter
		code     codes.Code
	}{
		"nothing is grafted":                   {nil, ordinary, "", nil, nil, codes.OK},
		"the same repository":                  {with(func(s *fallback.Standing) { s.Repository = "registry.example/app" }), ordinary, "", nil, nil, codes.OK},
		"this repository confirmed it before":  {with(func(s *fallback.Standing) { s.Vouchers = []string{"registry.example/app"} }), ordinary, "", nil, nil, codes.OK},
		"a chain that this image does not use": {with(func(s *fallback.Standing) { s.Chain = form }), ordinary, "", nil, nil, codes.OK},
		"this repository attaches the same form": {[]fallback.Standing{foreign}, func(context.Context) (*negotiate.Plan, error) {
			p := ordinaryPlan(reason.AlreadyPresent, "here")
			p.Vouched = []digest.Digest{form}
			return p, nil
		}, "", nil, []string{"vouch volume-2 registry.example/app", "vouch volume-2 registry.example/app"}, codes.OK},
		"this repository attaches the form, for fewer layers": {with(func(s *fallback.Standing) { s.Chain = chains[0] }), func(context.Context) (*negotiate.Plan, error) {
			p := ordinaryPlan(reason.AlreadyPresent, "here")
			p.Vouched = []digest.Digest{form}
			return p, nil
		}, "", nil, []string{"materialise"}, codes.OK},
		"this repository confirmed it, what was read is another registry's": {with(func(s *fallback.Standing) {
			s.Repository, s.Vouchers = "mirror.example/app", []string{"registry.example/app"}
		}), ordinary, "", nil, []string{"materialise"}, codes.OK},
		"a trusted signer confirms it, what was read is another registry's": {with(func(s *fallback.Standing) {
			signed(s)
			s.Repository = "mirror.example/app"
		}), ordinary, "good", nil, []string{"materialise"}, codes.OK},
		"what it stands on is above": {[]fallback.Standing{
			{Chain: chains[0], Volume: "volume-1", Repository: "registry.example/other"},
			{Chain: chains[len(chains)-1], Volume: "volume-2", Repository: "registry.example/app"},
		}, ordinary, "", nil, nil, codes.OK},
		"what it stands on is above, materialised": {[]fallback.Standing{
			{Chain: chains[0], Volume: "volume-1", Repository: "registry.example/other"},
			{Chain: chains[len(chains)-1], Materialised: true},
		}, ordinary, "", nil, nil, codes.OK},
		"this repository attaches another form with the same blobs": {with(func(s *fallback.Standing) { s.Volume, s.Artifact = "volume-1", "" }), func(context.Context) (*negotiate.Plan, error) {
			return lazyPlan(), nil
		}, "", nil, []string{"vouch volume-1 registry.example/app"}, codes.OK},
		"a layer that was unpacked over what is replaced": {
			with(func(s *fallback.Standing) { s.Suspect, s.Repository = true, "registry.example/app" }),
			ordinary, "", nil,
			[]string{"materialise"},
			codes.OK,
		},
		"a layer that was unpacked over what is not confirmed": {[]fallback.Standing{
			{Chain: chains[1], Volume: "volume-2", Suspect: true},
			{Chain: chains[0], Volume: "volume-2", Repository: "registry.example/other"},
		}, ordinary, "", nil, []string{"materialise", "materialise"}, codes.OK},
		"a suspect below what it stands on": {[]fallback.Standing{
			{Chain: chains[0], Volume: "volume-1", Suspect: true},
			{Chain: chains[1], Volume: "volume-2", Repository: "registry.example/app"},
		}, ordinary, "", nil, nil, codes.OK},
		"another form is attached here": {[]fallback.Standing{foreign}, func(context.Context) (*negotiate.Plan, error) {
			p := ordinaryPlan(reason.AlreadyPresent, "here")
			p.Vouched = []digest.Digest{digest.FromString("another")}
			return p, nil
		}, "", nil, []string{"materialise"}, codes.OK},
		"nobody confirms it":                 {[]fallback.Standing{foreign}, ordinary, "", nil, []string{"materialise"}, codes.OK},
		"nobody knows whose it is":           {with(func(s *fallback.Standing) { s.Repository = "" }), ordinary, "", nil, []string{"materialise"}, codes.OK},
		"a trusted signer confirms it":       {with(signed), ordinary, "good", nil, nil, codes.OK},
		"a signer not trusted here":          {with(signed), ordinary, "other", nil, []string{"materialise"}, codes.OK},
		"signed, and no trust store is":      {with(signed), ordinary, "", nil, []string{"materialise"}, codes.OK},
		"original layers cannot be had":      {[]fallback.Standing{foreign}, ordinary, "", noFetch, []string{"materialise"}, codes.Unavailable},
		"putting them in place has a defect": {[]fallback.Standing{foreign}, ordinary, "", errPanic, []string{"materialise"}, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{stands: tc.stands, plan: tc.plan, image: func(context.Context) (*negotiate.Image, error) {
				return &negotiate.Image{ChainIDs: chains}, nil
			}}
			w.restore = func(context.Context, digest.Digest) error {
				if errors.Is(tc.restore, errPanic) {
					panic("defect")
				}
				return tc.restore
			}
			options := limits()
			options.Rules = func(string) *negotiate.Rules {
				if tc.verifier == "" {
					return &negotiate.Rules{}
				}
				return &negotiate.Rules{Verifiers: []negotiate.Verifier{signedBy{tc.verifier}}}
			}
			n := newNode(t, w, options)
			confirm, settle, err := n.guard.Prepare(t.Context(), request(ref))
			if status.Code(err) != tc.code {
				t.Errorf("prepared with %v, want %s", err, tc.code)
			}
			if err == nil {
				err = confirm(t.Context())
				if err != nil {
					t.Errorf("not confirmed: %v", err)
				}
			}
			settle(err)
			got := slices.DeleteFunc(w.done(), func(call string) bool {
				return !strings.HasPrefix(call, "vouch") && call != "materialise"
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("calls %q, want %q", got, tc.want)
			}
			materialised := slices.Contains(tc.want, "materialise") && tc.code == codes.OK
			if entry := n.last(t, ref); (len(entry.Materialised) > 0) != materialised || (entry.Forward.Error != "") != (tc.code != codes.OK) {
				t.Errorf("journalled %+v", entry)
			}
		})
	}
}

var errPanic = errors.New("panics")

// TestConfirmLooksAtWhatWasPulled: the reference may mean another image to
// containerd a moment later, and a pull may succeed whose plan failed.
func TestConfirmLooksAtWhatWasPulled(t *testing.T) {
	t.Parallel()
	other := []digest.Digest{digest.FromString("moved 0"), digest.FromString("moved 1")}
	foreign := fallback.Standing{Chain: other[1], Volume: "volume-2", Repository: "registry.example/other"}
	for name, tc := range map[string]struct {
		plan    func(context.Context) (*negotiate.Plan, error)
		image   func(context.Context) (*negotiate.Image, error)
		restore error
		want    bool // materialised
		code    codes.Code
	}{
		"the tag moved": {want: true},
		"no plan": {plan: func(context.Context) (*negotiate.Plan, error) {
			return nil, reason.Errorf(reason.RegistryUnreachable, "no answer")
		}, want: true},
		"its layers cannot be had": {restore: errors.New("gone"), want: true, code: codes.Unavailable},
		"containerd does not tell": {image: func(context.Context) (*negotiate.Image, error) {
			return nil, errors.New("containerd is gone")
		}, code: codes.Unavailable},
		"containerd holds none": {image: func(context.Context) (*negotiate.Image, error) { return nil, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{stands: []fallback.Standing{foreign}, plan: tc.plan, image: tc.image}
			w.restore = func(context.Context, digest.Digest) error { return tc.restore }
			if w.image == nil {
				w.image = func(context.Context) (*negotiate.Image, error) { return &negotiate.Image{ChainIDs: other}, nil }
			}
			n := newNode(t, w, limits())
			confirm, settle, err := n.guard.Prepare(t.Context(), request(ref))
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if slices.Contains(w.done(), "materialise") {
				t.Error("materialised what the planned image does not stand on")
			}
			err = confirm(t.Context())
			if status.Code(err) != tc.code {
				t.Errorf("confirmed with %v, want %s", err, tc.code)
			}
			settle(err)
			if got := slices.Contains(w.done(), "materialise"); got != tc.want {
				t.Errorf("materialised: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestStricterPolicy: what a repository attached before its policy wanted
// signatures serves it only if the signature kept with it counts.
func TestStricterPolicy(t *testing.T) {
	t.Parallel()
	form := digest.FromString("artifact")
	own := fallback.Standing{Chain: chains[1], Volume: "volume-1", Repository: "registry.example/app", Artifact: form}
	voucher := own
	voucher.Repository, voucher.Vouchers = "registry.example/other", []string{"registry.example/app"}
	signed := own
	signed.Signer = &negotiate.Signer{Target: negotiate.Target{Descriptor: ocispec.Descriptor{Digest: form}}}
	signed.Proof = &negotiate.Signature{Content: []byte("good")}
	for name, tc := range map[string]struct {
		stands       fallback.Standing
		materialised bool
	}{
		"unsigned":                          {own, true},
		"unsigned, of another repository":   {voucher, true},
		"signed by somebody who is trusted": {signed, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{stands: []fallback.Standing{tc.stands}, plan: func(context.Context) (*negotiate.Plan, error) {
				return ordinaryPlan(reason.Unsigned, "nobody signed it"), nil
			}}
			options := limits()
			options.Rules = func(string) *negotiate.Rules {
				return &negotiate.Rules{RequireSignature: true, Verifiers: []negotiate.Verifier{signedBy{"good"}}}
			}
			n := newNode(t, w, options)
			prepare(t.Context(), t, n.guard, request(ref))(nil)
			if got := slices.Contains(w.done(), "materialise"); got != tc.materialised {
				t.Errorf("materialised: %t, want %t", got, tc.materialised)
			}
		})
	}
}
