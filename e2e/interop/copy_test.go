package interop_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
	trustsigstore "github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// TestCopiedImageKeepsItsForms copies a converted and signed image with `oras cp -r`
// to a repository of another name on registries of every kind.
func TestCopiedImageKeepsItsForms(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, to place) {
		for kind, start := range map[string]func(*testing.T) place{"from-referrers-api": withAPI, "from-tag-schema": withoutAPI} {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				from, oras, key, issuer := start(t), newOras(t), newKeyPair(t), newNotary(t)
				from.putImage(t, "team/app", 2)
				form := from.convert(t, "team/app", key.sign(signsigstore.SchemeBundle))
				for _, sign := range []signWith{issuer.sign(t, ""), key.sign(signsigstore.SchemeTag)} {
					if _, err := sign(t.Context(), from.repository(t, "team/app"), form.Artifact); err != nil {
						t.Fatal(err)
					}
				}
				mirror := "mirror/" + kind
				copied := to.ref(mirror, "1")
				oras.run(t, "cp", "-r", "--no-tty", "--from-plain-http", "--to-plain-http", from.ref("team/app", "1"), copied)
				if diff := cmp.Diff(discover(t, oras, from.ref("team/app", "1")), discover(t, oras, copied)); diff != "" {
					t.Errorf("attached to it (-source +copy):\n%s", diff)
				}
				checkAgreement(t, oras, copied)

				scope := func(repository string) negotiate.Verifier { return load(t, issuer.store(t, repository)) }
				for name, tc := range map[string]struct {
					store negotiate.Verifier
					want  reason.Code
				}{
					"cosign's key":                    {trusted(t, key.public), reason.None},
					"notation's, for everything":      {scope("*"), reason.None},
					"notation's, for the mirror":      {scope(to.host + "/" + mirror), reason.None},
					"notation's, for the source only": {scope(from.host + "/team/app"), reason.SignatureUntrusted},
					"another key":                     {trusted(t, newKeyPair(t).public), reason.SignatureUntrusted},
				} {
					got := plan(t, copied, signedBy(tc.store))
					if got.Reason != tc.want || got.Lazy() && got.Chosen.Artifact.Digest != form.Artifact.Digest {
						t.Errorf("trust store %s: %s: %s, want %s", name, got.Reason, got.Detail, tc.want)
					}
				}
			})
		}
	})
}

// TestCosignsTagIsCopiedByName: `oras cp -r` knows nothing of cosign's tags, so
// they are copied by name; whether they count at another place is for the trust
// store to say.
func TestCosignsTagIsCopiedByName(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, to place) {
		from, oras, key := withAPI(t), newOras(t), newKeyPair(t)
		from.putImage(t, "app", 2)
		form := from.convert(t, "app", key.sign(signsigstore.SchemeTag))
		cp := func(args ...string) {
			oras.run(t, append([]string{"cp", "--no-tty", "--from-plain-http", "--to-plain-http"}, args...)...)
		}
		cp("-r", from.ref("app", "1"), to.ref("mirror", "1"))
		anywhere := trusted(t, key.public)
		there := trusted(t, key.public, func(o *trustsigstore.Options) { o.CheckReference = true })
		if got := plan(t, to.ref("mirror", "1"), signedBy(anywhere)); got.Reason != reason.Unsigned {
			t.Errorf("without the tag: %s: %s", got.Reason, got.Detail)
		}
		tag := strings.Replace(form.Artifact.Digest.String(), ":", "-", 1) + ".sig"
		cp(from.ref("app", tag), to.ref("mirror", tag))
		if got := plan(t, to.ref("mirror", "1"), signedBy(anywhere)); !got.Lazy() || got.Chosen.Signer.Kind != negotiate.SignatureCosign {
			t.Errorf("with the tag: %s: %s", got.Reason, got.Detail)
		}
		if got := plan(t, to.ref("mirror", "1"), signedBy(there)); got.Reason != reason.SignatureInvalid {
			t.Errorf("where the place is checked: %s: %s", got.Reason, got.Detail)
		}
		if got := plan(t, from.ref("app", "1"), signedBy(there)); !got.Lazy() {
			t.Errorf("where the place is checked, at the source: %s: %s", got.Reason, got.Detail)
		}
	})
}
