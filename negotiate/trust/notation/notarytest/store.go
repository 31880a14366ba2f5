package notarytest

import (
	"crypto/x509"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/notaryproject/notation-go/verifier/trustpolicy"
)

// Store is a trust store on disk.
type Store struct {
	Dir           string
	PolicyFile    string
	TrustStoreDir string
	CRLDir        string
}

// NewStore makes a trust store with a policy and no certificates yet.
func NewStore(t testing.TB, statements ...trustpolicy.TrustPolicy) *Store {
	t.Helper()
	dir := t.TempDir()
	s := &Store{
		Dir: dir, PolicyFile: filepath.Join(dir, "trustpolicy.json"),
		TrustStoreDir: filepath.Join(dir, "truststore"), CRLDir: filepath.Join(dir, "crl"),
	}
	s.SetPolicy(t, statements...)
	return s
}

// SetPolicy replaces the trust policy.
func (s *Store) SetPolicy(t testing.TB, statements ...trustpolicy.TrustPolicy) {
	t.Helper()
	content, err := json.MarshalIndent(trustpolicy.Document{Version: "1.0", TrustPolicies: statements}, "", "  ")
	check(t, err)
	Write(t, s.PolicyFile, content)
}

// Trust adds certificates to a store, named "ca:name" as policies do.
func (s *Store) Trust(t testing.TB, kind, name string, certificates ...*x509.Certificate) {
	t.Helper()
	for _, c := range certificates {
		Write(t, filepath.Join(s.TrustStoreDir, "x509", kind, name, c.SerialNumber.String()+".crt"), PEM(c))
	}
}

// Statement is a statement of level strict for all repositories and identities. The
// stores are those that it trusts.
func Statement(stores ...string) trustpolicy.TrustPolicy {
	return trustpolicy.TrustPolicy{
		Name: "everything", RegistryScopes: []string{"*"}, TrustStores: stores, TrustedIdentities: []string{"*"},
		SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: trustpolicy.LevelStrict.Name},
	}
}
