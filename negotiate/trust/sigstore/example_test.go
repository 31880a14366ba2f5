package sigstore_test

import (
	"fmt"

	"github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// A trusted root alone trusts everybody who can get a certificate from it.
func ExampleOptions_Validate() {
	opts := sigstore.Options{TrustedRoot: "/etc/referee/trusted_root.json"}
	fmt.Println(opts.Validate())

	opts.Identities = []sigstore.Identity{{
		Issuer:        "https://token.actions.githubusercontent.com",
		SubjectRegexp: `https://github\.com/team/app/\.github/workflows/release\.yml@refs/tags/.*`,
	}}
	fmt.Println(opts.Validate())
	// Output:
	// identities: none is given, and a trusted root without any would trust everybody
	// <nil>
}
