package sigstore_test

import (
	"context"
	"crypto"
	"os"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	v := newVirtual(t)
	key := writeKey(t, newECDSA(t).Public())
	trusted := v.parts().write(t)
	who := []sigstore.Identity{{Issuer: issuer, Subject: subject}}
	yes := func() *bool { b := true; return &b }
	private, err := cryptoutils.MarshalPrivateKeyToPEM(newECDSA(t))
	if err != nil {
		t.Fatal(err)
	}
	without := func(change func(*parts)) string {
		p := v.parts()
		change(&p)
		return p.write(t)
	}
	secret := write(t, "cosign.key", private)
	garbage := write(t, "garbage", []byte("not a key"))
	giant := write(t, "giant", make([]byte, 4<<20+1))

	for name, tc := range map[string]struct {
		opts sigstore.Options
		says string
	}{
		"nothing to trust":                 {sigstore.Options{}, "keys or trusted root"},
		"a root that trusts everybody":     {sigstore.Options{TrustedRoot: trusted}, "trust everybody"},
		"identities without a root":        {sigstore.Options{Keys: []string{key}, Identities: who}, "need a trusted root"},
		"a log without a root":             {sigstore.Options{Keys: []string{key}, RequireLog: yes()}, "require log"},
		"a timestamp without a root":       {sigstore.Options{Keys: []string{key}, RequireTimestamp: true}, "require timestamp"},
		"an identity of any issuer":        {sigstore.Options{TrustedRoot: trusted, Identities: []sigstore.Identity{{Subject: subject}}}, "identity 1: either issuer"},
		"an identity of any subject":       {sigstore.Options{TrustedRoot: trusted, Identities: []sigstore.Identity{who[0], {Issuer: issuer}}}, "identity 2: either subject"},
		"a value and an expression":        {sigstore.Options{TrustedRoot: trusted, Identities: []sigstore.Identity{{Issuer: issuer, Subject: subject, SubjectRegexp: ".*"}}}, "and not both"},
		"a broken expression":              {sigstore.Options{TrustedRoot: trusted, Identities: []sigstore.Identity{{Issuer: issuer, SubjectRegexp: "("}}}, "identity 1: subject regexp"},
		"an expression that closes ours":   {sigstore.Options{TrustedRoot: trusted, Identities: []sigstore.Identity{{Issuer: issuer, SubjectRegexp: "a)|(?:.*"}}}, "identity 1: subject regexp"},
		"a key file that is not there":     {sigstore.Options{Keys: []string{key + ".absent"}}, key + ".absent"},
		"a key file of something else":     {sigstore.Options{Keys: []string{key, garbage}}, garbage},
		"a private key":                    {sigstore.Options{Keys: []string{secret}}, "private key"},
		"a giant key file":                 {sigstore.Options{Keys: []string{giant}}, giant},
		"a root file that is not there":    {sigstore.Options{TrustedRoot: trusted + ".absent", Identities: who}, trusted + ".absent"},
		"a root file of something else":    {sigstore.Options{TrustedRoot: garbage, Identities: who}, garbage},
		"a root without authorities":       {sigstore.Options{TrustedRoot: without(func(p *parts) { p.authorities = nil }), Identities: who}, "no certificate authority"},
		"a root without logs":              {sigstore.Options{TrustedRoot: without(func(p *parts) { p.logs = nil }), Identities: who}, "no transparency log"},
		"a root without stamp authorities": {sigstore.Options{TrustedRoot: without(func(p *parts) { p.stampers = nil }), Identities: who, RequireTimestamp: true}, "no timestamp authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := sigstore.Load("release", tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "release") {
				t.Errorf("Load: %v, want it to say %q", err, tc.says)
			}
		})
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	first, second := newECDSA(t), newECDSA(t)
	path := writeKey(t, first.Public())
	core, logs := observer.New(zap.InfoLevel)
	v := load(t, sigstore.Options{Keys: []string{path}, Logger: zap.New(core)})
	content := payload(signed)
	trusts := func(key crypto.Signer) bool {
		_, err := v.Verify(t.Context(), target(signed), simple(content, sign(t, key, content, crypto.SHA256)))
		return err == nil
	}
	rewrite := func(content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := func(keys ...crypto.Signer) (all []byte) {
		for _, key := range keys {
			one, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, one...)
		}
		return all
	}
	if !trusts(first) || trusts(second) {
		t.Error("at first: want the first key trusted, the second not")
	}
	rewrite(text(first, second))
	if !trusts(first) || !trusts(second) {
		t.Error("second key added: want both trusted")
	}
	rewrite([]byte("half a k"))
	if !trusts(first) || !trusts(second) {
		t.Error("file broken: want what was trusted before")
	}
	if got := logs.FilterMessageSnippet("kept as it was").FilterField(zap.String("trust", "release")).Len(); got != 1 {
		t.Errorf("a broken file was logged %d times, want once", got)
	}
	rewrite(text(second))
	if trusts(first) || !trusts(second) {
		t.Error("first key removed: want the second trusted only")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := v.Verify(t.Context(), target(signed), simple(content, sign(t, second, content, crypto.SHA256)))
	if reason.Of(err) != reason.SignatureUntrusted || !strings.Contains(err.Error(), path) {
		t.Errorf("file taken away: %v, want %s that names it", err, reason.SignatureUntrusted)
	}
	rewrite(text(second))
	if !trusts(second) {
		t.Error("file back: want its key trusted")
	}
}

func TestVerifyAfterCancel(t *testing.T) {
	t.Parallel()
	v := load(t, sigstore.Options{Keys: []string{writeKey(t, newECDSA(t).Public())}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Verify(ctx, target(signed), negotiate.Signature{Kind: negotiate.SignatureCosign})
	if reason.Of(err) != reason.Cancelled {
		t.Errorf("Verify: %v, want %s", err, reason.Cancelled)
	}
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	v := load(t, sigstore.Options{Keys: []string{writeKey(t, newECDSA(t).Public())}})
	if !v.Accepts(negotiate.SignatureBundle) || !v.Accepts(negotiate.SignatureCosign) || v.Accepts(negotiate.SignatureNotation) {
		t.Error("want both of Sigstore's kinds and no other")
	}
	if v.Name() != "release" {
		t.Errorf("Name() = %q", v.Name())
	}
}
