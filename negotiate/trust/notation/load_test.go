package notation_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// TestLoadNamesWhatIsWrong breaks one file at a time.
func TestLoadNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	policy := func(text string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { notarytest.Write(t, w.store.PolicyFile, []byte(text)) }
	}
	statement := func(edit func(*trustpolicy.TrustPolicy)) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			s := notarytest.Statement("ca:prod")
			edit(&s)
			w.store.SetPolicy(t, s)
		}
	}
	file := func(path, content string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { notarytest.Write(t, filepath.Join(w.store.Dir, path), []byte(content)) }
	}
	for name, tc := range map[string]struct {
		spoil func(*testing.T, *world)
		want  []string
	}{
		"policy absent":  {func(t *testing.T, w *world) { w.store.PolicyFile += "x" }, []string{"trustpolicy.jsonx", "no such file"}},
		"policy no JSON": {policy("{\n\"version\": \"1.0\",\n}"), []string{"trustpolicy.json: line 3"}},
		"policy of a strange type": {policy("{\n \"version\": 1\n}"), []string{
			"trustpolicy.json: line 2", "version",
		}},
		"policy with a member too many": {policy("{\"version\": \"1.0\",\n\"trustPolicys\": []}"), []string{"trustpolicy.json: line 2", `"trustPolicys"`}},
		"policy with a tail":            {policy(`{"version": "1.0", "trustPolicies": []} {}`), []string{"line 1", "more follows"}},
		"policy of another version":     {policy(`{"version": "9.0", "trustPolicies": [{}]}`), []string{"trustpolicy.json", `version "9.0"`}},
		"policy too large":              {policy(strings.Repeat(" ", 5<<20)), []string{"trustpolicy.json", "larger than"}},
		"level unknown": {
			statement(func(s *trustpolicy.TrustPolicy) { s.SignatureVerification.VerificationLevel = "lax" }),
			[]string{"trustpolicy.json", `statement "everything"`, `level "lax"`},
		},
		"identity without country": {
			statement(func(s *trustpolicy.TrustPolicy) { s.TrustedIdentities = []string{"x509.subject: CN=a"} }),
			[]string{"trustpolicy.json", `statement "everything"`, `"x509.subject: CN=a"`},
		},
		"scope with a wildcard": {
			statement(func(s *trustpolicy.TrustPolicy) { s.RegistryScopes = []string{"registry.example/*"} }),
			[]string{"trustpolicy.json", `"registry.example/*"`},
		},
		"store absent": {
			statement(func(s *trustpolicy.TrustPolicy) { s.TrustStores = []string{"ca:dev"} }),
			[]string{`"ca:dev"`, `statement "everything"`, "truststore/x509/ca/dev", "no such file"},
		},
		"store empty": {func(t *testing.T, w *world) {
			file("truststore/x509/ca/dev/.hidden", "")(t, w)
			statement(func(s *trustpolicy.TrustPolicy) { s.TrustStores = []string{"ca:dev"} })(t, w)
		}, []string{"there is no certificate in", "x509/ca/dev"}},
		"certificate broken": {file("truststore/x509/ca/prod/a.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []string{`"ca:prod"`, "prod/a.crt: certificate 1"}},
		"key in the store":   {file("truststore/x509/ca/prod/a.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), []string{"prod/a.pem: it holds a private key"}},
		"text in the store":  {file("truststore/x509/ca/prod/README", "hello"), []string{"prod/README"}},
		"leaf in the store": {func(t *testing.T, w *world) {
			w.store.Trust(t, "ca", "prod", w.root.Issue(t, notarytest.Request{Name: "builder"}).Certificate())
		}, []string{`"ca:prod"`, "CN=builder"}},
		"no root in a store of timestamping authorities": {func(t *testing.T, w *world) {
			w.store.Trust(t, "tsa", "time", w.intermediate.Certificate())
			statement(func(s *trustpolicy.TrustPolicy) { s.TrustStores = append(s.TrustStores, "tsa:time") })(t, w)
		}, []string{`"tsa:time"`, "CN=intermediate", "is not a root"}},
		"directory of lists absent": {func(_ *testing.T, w *world) { w.store.CRLDir = "/nowhere/crl" }, []string{"/nowhere/crl"}},
		"list broken": {func(t *testing.T, w *world) {
			w.store.CRLDir = filepath.Join(w.store.Dir, "crl")
			file("crl/ca.crl", "hello")(t, w)
		}, []string{"read revocation list", "crl/ca.crl"}},
		"cached list without content": {func(t *testing.T, w *world) {
			w.store.CRLDir = filepath.Join(w.store.Dir, "crl")
			file("crl/0f1e", "{}")(t, w)
		}, []string{"crl/0f1e", "baseCRL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tc.spoil(t, w)
			_, err := notation.Load("prod", notation.Options{PolicyFile: w.store.PolicyFile, TrustStoreDir: w.store.TrustStoreDir, CRLDir: w.store.CRLDir})
			if err == nil {
				t.Fatal("it was loaded")
			}
			for _, want := range append(tc.want, "load trust store prod: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not tell %q", err, want)
				}
			}
		})
	}
}

// TestMountedSecretsAreRead lays files out as Kubernetes mounts secrets.
func TestMountedSecretsAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(w.store.TrustStoreDir, "x509", "ca", "mounted")
	notarytest.Write(t, filepath.Join(dir, "..2026_01_01", "ca.crt"), notarytest.PEM(w.root.Certificate()))
	for link, to := range map[string]string{"..data": "..2026_01_01", "ca.crt": "..data/ca.crt"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	w.store.SetPolicy(t, notarytest.Statement("ca:mounted"))
	envelope := w.root.Issue(t, notarytest.Request{Name: "builder"}).Sign(t, notarytest.JWS, target.Descriptor, nil)
	if _, err := load(t, w.store).Verify(t.Context(), target, signatureOf(notarytest.JWS, envelope)); err != nil {
		t.Error(err)
	}
}

// TestFilesAreReadAgain changes each kind of file while verdicts are asked for.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.store.CRLDir = filepath.Join(w.store.Dir, "crl")
	notarytest.Write(t, filepath.Join(w.store.CRLDir, ".keep"), nil)
	w.store.SetPolicy(t, notarytest.Statement("ca:prod"))
	core, logs := observer.New(zap.InfoLevel)
	v, err := notation.Load("prod", notation.Options{
		PolicyFile: w.store.PolicyFile, TrustStoreDir: w.store.TrustStoreDir, CRLDir: w.store.CRLDir, Logger: zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	builder := w.root.Issue(t, notarytest.Request{Name: "builder"})
	foreign := w.stranger.Issue(t, notarytest.Request{Name: "foreigner"})
	verify := func(h *notarytest.Holder) error {
		_, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, h.Sign(t, notarytest.JWS, target.Descriptor, nil)))
		return err
	}
	step := func(what string, log string, builderTrusted, foreignTrusted bool) {
		t.Helper()
		if err := verify(builder); (err == nil) != builderTrusted {
			t.Errorf("%s: builder trusted: %t, want %t: %v", what, err == nil, builderTrusted, err)
		}
		if err := verify(foreign); (err == nil) != foreignTrusted {
			t.Errorf("%s: foreigner trusted: %t, want %t: %v", what, err == nil, foreignTrusted, err)
		}
		got := logs.TakeAll()
		switch {
		case log == "" && len(got) != 0, log != "" && (len(got) != 1 || !strings.Contains(got[0].Message, log)):
			t.Errorf("%s: logged %v, want %q once", what, got, log)
		}
	}
	const again, kept, gone = "trust store read again", "trust store kept as it was", "trust store trusts nobody"

	step("at first", "", true, false)
	w.store.Trust(t, "ca", "prod", w.stranger.Certificate())
	step("certificate added", again, true, true)
	w.store.SetPolicy(t, trustpolicy.TrustPolicy{Name: "broken"})
	step("policy broken", kept, true, true)
	narrow := notarytest.Statement("ca:prod")
	narrow.TrustedIdentities = []string{"x509.subject: C=XX, ST=Here, O=Referee, CN=builder"}
	w.store.SetPolicy(t, narrow)
	step("policy narrowed", again, true, false)
	notarytest.Write(t, filepath.Join(w.store.CRLDir, "ca.crl"), w.root.RevocationList(t, 1, time.Now().Add(time.Hour), nil, builder))
	step("builder revoked", again, false, false)
	if err := os.Remove(filepath.Join(w.store.CRLDir, "ca.crl")); err != nil {
		t.Fatal(err)
	}
	step("list removed", again, true, false)
	if err := os.Remove(w.store.PolicyFile); err != nil {
		t.Fatal(err)
	}
	step("policy removed", gone, false, false)
	step("nothing changed", "", false, false)
	w.store.SetPolicy(t, narrow)
	step("policy back", again, true, false)
}

// TestReadAgainWhileAsked lets files change under concurrent verdicts.
func TestReadAgainWhileAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := load(t, w.store)
	s := signatureOf(notarytest.JWS, w.root.Issue(t, notarytest.Request{Name: "builder"}).Sign(t, notarytest.JWS, target.Descriptor, nil))
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 20 {
				if _, err := v.Verify(t.Context(), target, s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		statement := notarytest.Statement("ca:prod")
		statement.Name = strings.Repeat("x", i+1)
		w.store.SetPolicy(t, statement)
	}
	asking.Wait()
}

// TestToleratedFailuresAreLogged: level permissive lets them pass, not unnoticed.
func TestToleratedFailuresAreLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	statement := notarytest.Statement("ca:prod")
	statement.SignatureVerification.VerificationLevel = trustpolicy.LevelPermissive.Name
	w.store.SetPolicy(t, statement)
	core, logs := observer.New(zap.InfoLevel)
	v, err := notation.Load("prod", notation.Options{PolicyFile: w.store.PolicyFile, TrustStoreDir: w.store.TrustStoreDir, Logger: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	envelope := w.root.Issue(t, notarytest.Request{Name: "builder", CRL: []string{"http://127.0.0.1:1/"}}).Sign(t, notarytest.JWS, target.Descriptor,
		func(r *signature.SignRequest) {
			r.SigningTime, r.Expiry = time.Now().Add(-30*time.Minute), time.Now().Add(-time.Minute)
		})
	if _, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, envelope)); err != nil {
		t.Fatal(err)
	}
	var checks []string
	for _, entry := range logs.All() {
		checks = append(checks, entry.ContextMap()["check"].(string)) //nolint:errcheck,forcetypeassert // a panic tells the test
	}
	if got := strings.Join(checks, " "); got != "expiry revocation" {
		t.Errorf("logged failures of %q", got)
	}
	if _, err := v.Verify(t.Context(), target, signatureOf(notarytest.JWS, nil)); reason.Of(err) != reason.SignatureInvalid {
		t.Error(err)
	}
}
