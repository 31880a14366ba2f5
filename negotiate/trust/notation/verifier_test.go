package notation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

var target = negotiate.Target{
	Repository: "registry.example/team/app",
	Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("a form"), Size: 1234},
}

func load(t *testing.T, s *notarytest.Store) *notation.Verifier {
	t.Helper()
	opts := notation.Options{PolicyFile: s.PolicyFile, TrustStoreDir: s.TrustStoreDir}
	if s.CRLDir != "" {
		opts.CRLDir = s.CRLDir
	}
	v, err := notation.Load("prod", opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signatureOf(mediaType string, envelope []byte) negotiate.Signature {
	return negotiate.Signature{
		Kind: negotiate.SignatureNotation, MediaType: mediaType, Content: envelope,
		Artifact: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(envelope), Size: 1},
	}
}

// world is an authority that is trusted, and one that is not.
type world struct {
	store           *notarytest.Store
	root, stranger  *notarytest.Holder
	intermediate    *notarytest.Holder
	tsaRoot         *notarytest.Holder
	tsa, foreignTSA *notarytest.TSA
	past            time.Time // when the timestamping authorities live
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		store: notarytest.NewStore(t, notarytest.Statement("ca:prod")),
		root:  notarytest.Root(t, "root"), stranger: notarytest.Root(t, "stranger"), tsaRoot: notarytest.Root(t, "time"),
		past: time.Now().Add(-30 * 24 * time.Hour),
	}
	w.store.CRLDir = ""
	year := notarytest.Request{Timestamps: true, From: time.Now().AddDate(-1, 0, 0), To: time.Now().AddDate(1, 0, 0)}
	w.intermediate = w.root.Issue(t, notarytest.Request{Name: "intermediate", Authority: true, From: year.From, To: year.To})
	at := func() time.Time { return w.past }
	year.Name = "stamper"
	w.tsa = notarytest.NewTSA(t, w.tsaRoot.Issue(t, year), at)
	w.foreignTSA = notarytest.NewTSA(t, notarytest.Root(t, "other time").Issue(t, year), at)
	w.store.Trust(t, "ca", "prod", w.root.Certificate())
	w.store.Trust(t, "tsa", "time", w.tsaRoot.Certificate())
	w.store.Trust(t, "signingAuthority", "cloud", w.root.Certificate())
	return w
}

func TestVerify(t *testing.T) {
	t.Parallel()
	type change = func(*signature.SignRequest)
	now := time.Now()
	signer := notarytest.Request{Name: "builder"}
	bygone := notarytest.Request{Name: "builder", From: now.AddDate(0, -2, 0), To: now.Add(-time.Hour)}
	statement := notarytest.Statement("ca:prod")
	with := func(edit func(*trustpolicy.TrustPolicy)) *trustpolicy.TrustPolicy {
		s := statement
		s.TrustStores = append([]string(nil), s.TrustStores...)
		edit(&s)
		return &s
	}
	stamped := with(func(s *trustpolicy.TrustPolicy) { s.TrustStores = append(s.TrustStores, "tsa:time") })
	level := func(name string, override map[trustpolicy.ValidationType]trustpolicy.ValidationAction) *trustpolicy.TrustPolicy {
		return with(func(s *trustpolicy.TrustPolicy) {
			s.SignatureVerification = trustpolicy.SignatureVerification{VerificationLevel: name, Override: override}
			if name == "skip" {
				s.TrustStores, s.TrustedIdentities = nil, nil
			}
		})
	}
	expired := func(r *signature.SignRequest) {
		r.SigningTime, r.Expiry = now.Add(-30*time.Minute), now.Add(-time.Minute)
	}
	for name, tc := range map[string]struct {
		statement *trustpolicy.TrustPolicy // nil: statement
		request   *notarytest.Request      // nil: signer
		issuer    func(*world) *notarytest.Holder
		sign      func(*testing.T, *world) change
		signed    func(*negotiate.Target)             // what is signed, where that is not the target
		bend      func(t *testing.T, b []byte) []byte // after signing
		want      reason.Code
		says      string // part of the error, or the whole identity
	}{
		"good": {says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)"},
		"good, intermediate authority": {
			issuer: func(w *world) *notarytest.Holder { return w.intermediate },
			says:   "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"good, not expired yet": {
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) { r.Expiry = now.Add(time.Hour) }
			},
			says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"good, signing authority": {
			statement: with(func(s *trustpolicy.TrustPolicy) { s.TrustStores = []string{"signingAuthority:cloud"} }),
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) { r.SigningScheme = signature.SigningSchemeX509SigningAuthority }
			},
			says: "CN=builder,O=Referee,ST=Here,C=XX (signingAuthority:cloud)",
		},
		"signing authority, where only a CA is trusted": {
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) { r.SigningScheme = signature.SigningSchemeX509SigningAuthority }
			},
			want: reason.SignatureUntrusted, says: "authenticity: no trusted certificates",
		},
		"expired signature": {
			sign: func(*testing.T, *world) change { return expired },
			want: reason.SignatureUntrusted, says: "expiry: ",
		},
		"expired signature, only logged": {
			statement: level("permissive", nil),
			sign:      func(*testing.T, *world) change { return expired },
			says:      "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"expired certificate": {
			request: &bygone,
			sign:    func(t *testing.T, w *world) change { return func(r *signature.SignRequest) { r.SigningTime = w.past } },
			want:    reason.SignatureUntrusted, says: "timestamp: verification time is after certificate",
		},
		"expired certificate, stamped before": {
			statement: stamped, request: &bygone,
			sign: func(t *testing.T, w *world) change {
				return func(r *signature.SignRequest) { r.SigningTime = w.past; w.tsa.Stamp(t, r) }
			},
			says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"expired certificate, stamped by a stranger": {
			statement: stamped, request: &bygone,
			sign: func(t *testing.T, w *world) change {
				return func(r *signature.SignRequest) { r.SigningTime = w.past; w.foreignTSA.Stamp(t, r) }
			},
			want: reason.SignatureUntrusted, says: "timestamp: failed to verify the timestamp countersignature",
		},
		"expired certificate, stamped when it was not valid yet": {
			statement: stamped, request: &notarytest.Request{Name: "builder", From: now.Add(-2 * time.Hour), To: now.Add(-time.Hour)},
			sign: func(t *testing.T, w *world) change {
				return func(r *signature.SignRequest) { r.SigningTime = now.Add(-90 * time.Minute); w.tsa.Stamp(t, r) }
			},
			want: reason.SignatureUntrusted, says: "timestamp: timestamp can be before certificate",
		},
		"no timestamp where one is wanted": {
			statement: stamped,
			want:      reason.SignatureUntrusted, says: "timestamp: no timestamp countersignature",
		},
		"no timestamp where one is wanted after expiry only": {
			statement: with(func(s *trustpolicy.TrustPolicy) {
				s.TrustStores = append(s.TrustStores, "tsa:time")
				s.SignatureVerification.VerifyTimestamp = trustpolicy.OptionAfterCertExpiry
			}),
			says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"certificate not valid yet": {
			request: &notarytest.Request{Name: "builder", From: now.Add(time.Hour), To: now.Add(2 * time.Hour)},
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) { r.SigningTime = now.Add(90 * time.Minute) }
			},
			want: reason.SignatureUntrusted, says: "timestamp: verification time is before certificate",
		},
		"authority not trusted": {
			issuer: func(w *world) *notarytest.Holder { return w.stranger },
			want:   reason.SignatureUntrusted, says: "authenticity: ",
		},
		"identity trusted": {
			statement: with(func(s *trustpolicy.TrustPolicy) {
				s.TrustedIdentities = []string{"x509.subject: C=XX, ST=Here, O=Referee, CN=builder"}
			}),
			says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"identity not trusted": {
			statement: with(func(s *trustpolicy.TrustPolicy) {
				s.TrustedIdentities = []string{"x509.subject: C=XX, ST=Here, O=Referee, CN=releaser"}
			}),
			want: reason.SignatureUntrusted, says: "authenticity: signing certificate from the digital signature does not match",
		},
		"repository in scope": {
			statement: with(func(s *trustpolicy.TrustPolicy) { s.RegistryScopes = []string{target.Repository} }),
			says:      "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
		"repository out of scope": {
			statement: with(func(s *trustpolicy.TrustPolicy) { s.RegistryScopes = []string{"registry.example/team/other"} }),
			want:      reason.SignatureUntrusted, says: "scope: ",
		},
		"level audit vouches for nobody": {
			statement: level("audit", nil),
			want:      reason.SignatureUntrusted, says: `has level "audit"`,
		},
		"level skip vouches for nobody": {
			statement: level("skip", nil),
			want:      reason.SignatureUntrusted, says: `has level "skip"`,
		},
		"authenticity only logged vouches for nobody": {
			statement: level("strict", map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeAuthenticity: trustpolicy.ActionLog}),
			issuer:    func(w *world) *notarytest.Holder { return w.stranger },
			want:      reason.SignatureUntrusted, says: `authenticity "log"`,
		},
		"other digest": {
			signed: func(o *negotiate.Target) { o.Descriptor.Digest = digest.FromString("something else") },
			want:   reason.SignatureInvalid, says: "of something else: " + digest.FromString("something else").String(),
		},
		"other size": {
			signed: func(o *negotiate.Target) { o.Descriptor.Size++ },
			want:   reason.SignatureInvalid, says: "1235 bytes), not",
		},
		"other media type": {
			signed: func(o *negotiate.Target) { o.Descriptor.MediaType = ocispec.MediaTypeImageIndex },
			want:   reason.SignatureInvalid, says: ocispec.MediaTypeImageIndex,
		},
		"tampered": {
			bend: tamper,
			want: reason.SignatureInvalid, says: "integrity: ",
		},
		"truncated": {
			bend: func(_ *testing.T, b []byte) []byte { return b[:len(b)/2] },
			want: reason.SignatureInvalid, says: "integrity: unable to parse",
		},
		"empty": {
			bend: func(*testing.T, []byte) []byte { return nil },
			want: reason.SignatureInvalid, says: "integrity: ",
		},
		"garbage": {
			bend: func(*testing.T, []byte) []byte { return bytes.Repeat([]byte{0xd2, '{'}, 999) },
			want: reason.SignatureInvalid, says: "integrity: unable to parse",
		},
		"giant": {
			bend: func(_ *testing.T, b []byte) []byte { return append(b, make([]byte, 4<<20)...) },
			want: reason.SignatureInvalid, says: "want at most 4194304",
		},
		"verification plugin asked for": {
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) {
					r.ExtendedSignedAttributes = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Value: "com.example.kms", Critical: true}}
				}
			},
			want: reason.SignatureUntrusted, says: `plugin "com.example.kms", and plugins are not run here`,
		},
		"critical attribute that nobody knows": {
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) {
					r.ExtendedSignedAttributes = []signature.Attribute{{Key: "com.example.only-on-mondays", Value: "yes", Critical: true}}
				}
			},
			want: reason.SignatureUntrusted, says: `critical attribute "com.example.only-on-mondays"`,
		},
		"attribute that need not be known": {
			sign: func(*testing.T, *world) change {
				return func(r *signature.SignRequest) {
					r.ExtendedSignedAttributes = []signature.Attribute{{Key: "com.example.note", Value: "yes"}}
				}
			},
			says: "CN=builder,O=Referee,ST=Here,C=XX (ca:prod)",
		},
	} {
		for _, mediaType := range []string{notarytest.JWS, notarytest.COSE} {
			t.Run(name+", "+strings.TrimPrefix(mediaType, "application/"), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if tc.statement != nil {
					w.store.SetPolicy(t, *tc.statement)
				}
				request, issuer, signs := signer, w.root, change(nil)
				if tc.request != nil {
					request = *tc.request
				}
				if tc.issuer != nil {
					issuer = tc.issuer(w)
				}
				if tc.sign != nil {
					signs = tc.sign(t, w)
				}
				signed := target
				if tc.signed != nil {
					tc.signed(&signed)
				}
				envelope := issuer.Issue(t, request).Sign(t, mediaType, signed.Descriptor, signs)
				if tc.bend != nil {
					envelope = tc.bend(t, envelope)
				}
				s := signatureOf(mediaType, envelope)
				got, err := load(t, w.store).Verify(t.Context(), target, s)
				if code := reason.Of(err); code != tc.want {
					t.Fatalf("code %q, want %q: %v", code, tc.want, err)
				}
				if err != nil {
					if !strings.Contains(err.Error(), tc.says) {
						t.Errorf("it says %q, which does not tell %q", err, tc.says)
					}
					return
				}
				want := negotiate.Signer{Trust: "prod", Kind: negotiate.SignatureNotation, Identity: tc.says, Target: target, Signature: s.Artifact.Digest}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("signer (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// tamper changes the payload and nothing else.
func tamper(t *testing.T, envelope []byte) []byte {
	t.Helper()
	if envelope[0] != '{' { // COSE: the payload stands in it as it is
		return bytes.Replace(envelope, []byte(`"size":1234`), []byte(`"size":4321`), 1)
	}
	var e map[string]any
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	payload, ok := e["payload"].(string)
	if !ok {
		t.Fatal("there is no payload")
	}
	e["payload"] = "e30" + payload[3:]
	bent, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return bent
}

func TestVerifyOnlyItsOwnKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := load(t, w.store)
	s := signatureOf(notarytest.JWS, w.root.Issue(t, notarytest.Request{Name: "builder"}).Sign(t, notarytest.JWS, target.Descriptor, nil))
	for _, kind := range []negotiate.SignatureKind{negotiate.SignatureCosign, negotiate.SignatureBundle, ""} {
		s.Kind = kind
		if _, err := v.Verify(t.Context(), target, s); v.Accepts(kind) || reason.Of(err) != reason.SignatureInvalid {
			t.Errorf("kind %q: accepted %t, %v", kind, v.Accepts(kind), err)
		}
	}
	s.Kind, s.MediaType = negotiate.SignatureNotation, "text/plain"
	if _, err := v.Verify(t.Context(), target, s); reason.Of(err) != reason.SignatureInvalid {
		t.Errorf("an envelope in plain text: %v", err)
	}
}

func TestVerifyStopsWithItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := load(t, w.store).Verify(ctx, target, signatureOf(notarytest.JWS, []byte("{}")))
	if reason.Of(err) != reason.Cancelled {
		t.Errorf("%q: %v", reason.Of(err), err)
	}
}
