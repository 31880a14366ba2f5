package notation_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// rechain replaces parts of a JWS that its signature does not cover.
func rechain(t *testing.T, envelope []byte, header map[string]any) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	old, ok := e["header"].(map[string]any)
	if !ok {
		t.Fatal("there is no header")
	}
	for k, v := range header {
		old[k] = v
	}
	bent, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return bent
}

// giantKey is a certificate with an RSA key of so many bits. Nobody can have made
// the signature in it.
func giantKey(t *testing.T, h *notarytest.Holder, bits uint) []byte {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	n.SetBit(n, 0, 1)
	template := *h.Certificate()
	der, err := x509.CreateCertificate(nil, &template, &template, &rsa.PublicKey{N: n, E: 1<<31 - 1}, h.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestCostIsBounded sends what would keep a verifier busy for long.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	builder := w.root.Issue(t, notarytest.Request{Name: "builder"})
	good := builder.Sign(t, notarytest.JWS, target.Descriptor, func(r *signature.SignRequest) { w.tsa.Stamp(t, r) })
	v := load(t, w.store)
	giant := giantKey(t, w.root, 1<<21)
	for name, tc := range map[string]struct {
		header map[string]any
		says   string
	}{
		"giant key of the signer":    {map[string]any{"x5c": [][]byte{giant, w.root.Certificate().Raw}}, "RSA key of 2097152 bits"},
		"giant key of the authority": {map[string]any{"x5c": [][]byte{builder.Certificate().Raw, giant}}, "RSA key of 2097152 bits"},
		"endless chain":              {map[string]any{"x5c": repeat(builder.Certificate().Raw, 1000)}, "1000 certificates"},
		"no certificate":             {map[string]any{"x5c": [][]byte{[]byte("hello")}}, "certificate 1 of the chain"},
		"giant timestamp":            {map[string]any{"io.cncf.notary.timestampSignature": make([]byte, 1<<20)}, "timestamp is 1048576 bytes long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, rechain(t, good, tc.header)))
			if reason.Of(err) != reason.SignatureInvalid || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q: %v, want it to say %q", reason.Of(err), err, tc.says)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("the original passes", func(t *testing.T) {
		t.Parallel()
		if _, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, good)); err != nil {
			t.Error(err)
		}
	})
}

func repeat(b []byte, n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = b
	}
	return list
}

// TestTimestampOfAnother: anybody may move a timestamp from one signature to the next.
func TestTimestampOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store.SetPolicy(t, notarytest.Statement("ca:prod", "tsa:time"))
	now := time.Now()
	builder := w.root.Issue(t, notarytest.Request{Name: "builder", From: now.AddDate(0, -2, 0), To: now.Add(-time.Hour)})
	past := func(r *signature.SignRequest) { r.SigningTime = w.past }
	stamped := builder.Sign(t, notarytest.JWS, target.Descriptor, func(r *signature.SignRequest) { past(r); w.tsa.Stamp(t, r) })
	var from struct {
		Header map[string]any `json:"header"`
	}
	if err := json.Unmarshal(stamped, &from); err != nil {
		t.Fatal(err)
	}
	const key = "io.cncf.notary.timestampSignature"
	late := builder.Sign(t, notarytest.JWS, target.Descriptor, func(r *signature.SignRequest) { past(r); r.Expiry = now.Add(time.Hour) })
	v := load(t, w.store)
	if _, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, stamped)); err != nil {
		t.Fatal(err)
	}
	_, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, rechain(t, late, map[string]any{key: from.Header[key]})))
	expectRefusal(t, err, "timestamp: failed to get timestamp from timestamp countersignature")
}

// FuzzVerify: whatever a registry serves, the answer is a refusal with a code and
// never a panic. Only the envelopes that were really signed pass.
func FuzzVerify(f *testing.F) {
	store := notarytest.NewStore(f, notarytest.Statement("ca:prod", "tsa:time"))
	root, clock := notarytest.Root(f, "root"), notarytest.Root(f, "time")
	store.Trust(f, "ca", "prod", root.Certificate())
	store.Trust(f, "tsa", "time", clock.Certificate())
	tsa := notarytest.NewTSA(f, clock.Issue(f, notarytest.Request{Name: "stamper", Timestamps: true}), time.Now)
	builder := root.Issue(f, notarytest.Request{Name: "builder"})
	other := target.Descriptor
	other.Size++
	for _, mediaType := range []string{notarytest.JWS, notarytest.COSE} {
		cose := mediaType == notarytest.COSE
		f.Add(cose, builder.Sign(f, mediaType, other, func(r *signature.SignRequest) { tsa.Stamp(f, r) }))
		f.Add(cose, builder.Sign(f, mediaType, other, nil))
		f.Add(cose, []byte(nil))
	}
	f.Add(false, []byte(`{"payload":"e30","protected":"e30","header":{"x5c":[""]},"signature":""}`))
	f.Add(true, []byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Add(true, []byte("\xd2\x84\x43\xa1\x01\x26\xa1\x18\x21\x81\x40\x40\x40"))
	v, err := notation.Load("prod", notation.Options{PolicyFile: store.PolicyFile, TrustStoreDir: store.TrustStoreDir})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, cose bool, envelope []byte) {
		mediaType := notarytest.JWS
		if cose {
			mediaType = notarytest.COSE
		}
		_, err := v.Verify(t.Context(), target, negotiate.Signature{Kind: negotiate.SignatureNotation, MediaType: mediaType, Content: envelope})
		code := reason.Of(err)
		if code != reason.SignatureInvalid && code != reason.SignatureUntrusted {
			t.Errorf("code %q: %v", code, err)
		}
		if err != nil && strings.Contains(err.Error(), "breaks the parser") {
			t.Errorf("a library panicked: %v", err)
		}
	})
}
