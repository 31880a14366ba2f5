package notation_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/referee-cri/referee/negotiate/trust/notation"
)

// A trust policy whose certificates are not there is noticed at start, not at the
// first pull.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "notation")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	policy := filepath.Join(dir, "trustpolicy.json")
	if err := os.WriteFile(policy, []byte(`{
	  "version": "1.0",
	  "trustPolicies": [{
	    "name": "production",
	    "registryScopes": ["registry.example/team/app"],
	    "signatureVerification": {"level": "strict"},
	    "trustStores": ["ca:builders"],
	    "trustedIdentities": ["x509.subject: C=DE, ST=Berlin, O=Example"]
	  }]
	}`), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	_, err = notation.Load("production", notation.Options{PolicyFile: policy, TrustStoreDir: "/etc/referee/trust"})
	fmt.Println(err)
	// Output: load trust store production: read trust store "ca:builders" of trust policy statement "production": open /etc/referee/trust/x509/ca/builders: no such file or directory
}
