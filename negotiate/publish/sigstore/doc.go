// Package sigstore signs what is in a registry with a key, as cosign does, so that
// cosign, policy-controller, Kyverno and Referee itself can verify it.
//
// It owns the two ways in which cosign leaves a signature: as a Sigstore bundle
// that is attached like any other artifact (cosign 3), and under a tag made of the
// digest (cosign 1 and 2). It never signs a tag, never creates keys, and writes to
// no transparency log: who verifies must not require one.
//
// Two signers that write one tag at the same time can overwrite each other. The tag
// is read again after it was written, and written again if need be.
//
// Goroutines: none.
package sigstore
