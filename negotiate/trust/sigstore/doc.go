// Package sigstore decides by Sigstore's rules whether somebody this node trusts
// has signed something: cosign's signatures, as bundles (cosign 3) and as simple
// signing (cosign 1 and 2), made with keys or with certificates of a Fulcio.
//
// It owns one trust store: public keys and a trusted root from files, which
// certificate identities count, whether a transparency log or a timestamp is
// required. What a signature is of is checked here; every signature, certificate,
// log entry and timestamp is checked by sigstore-go.
//
// It never asks a network: no TUF, no Rekor, no OCSP. The trusted root is the file
// that the operator put there, and what a signature needs comes with it. It never
// takes an attestation (SBOM, provenance) for a signature: that vouches for what
// its predicate says, not for the image's being fit to run.
//
// Two points are stricter than in cosign. Regular expressions of identities match
// the whole value, as if between ^ and $, so that a prefix is no identity. And a
// certificate is required to be in a certificate transparency log wherever the
// trusted root names one.
//
// Goroutines: none. Files are looked at again with each Verify.
package sigstore
