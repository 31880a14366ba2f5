// Package notation decides by the rules of the Notary Project whether somebody
// this node trusts has signed something.
//
// It owns one trust store: a trust policy and the certificates that it names, read
// from files in notation's own formats and places, and read again when they
// change. It bounds what a registry may have written before anything parses it,
// asks notation-go for its verdict on JWS and COSE envelopes, and says in one
// sentence which check failed.
//
// It never reaches out to the network and never runs a notation plugin. It never
// signs (negotiate/publish/notation does), and never looks into a home directory.
//
// How a trust policy reads here, where the question is whether somebody vouches:
//
//   - A statement whose level does not enforce authenticity (skip, audit, or an
//     override) vouches for nobody, whatever the signature.
//   - Checks with the action log are made, and written to the log where they fail.
//   - Revocation is looked up in lists (CRLs) in a local directory. With the action
//     enforce, a certificate that could be revoked (it names an OCSP server or a
//     CRL) and of which no current list there tells is not trusted. One that names
//     neither, and that no list is about, cannot be revoked: as in notation.
//   - The chain of a timestamping authority is looked up in the same way. notation
//     enforces that whatever the statement says; here it is enforced where the
//     statement enforces revocation, since lists of foreign authorities are rarely
//     at hand without a network. A certificate known to be revoked never passes.
//
// Goroutines: none of its own. notation-core-go looks up the certificates of a chain
// side by side and waits for all of them.
package notation
