// Package notation signs what is in a registry in the way of the Notary Project,
// so that notation, Ratify, Kyverno and Referee itself can verify it.
//
// It owns the way of a signature into the registry: what is signed is what the
// registry serves, the envelope (JWS or COSE) is made by notation-go with a key
// from a file or a notation plugin, and its manifest is attached by the parent
// package, which finds a place for it in registries without a referrers API too.
// It never creates keys or certificates, never reads notation's own configuration,
// and never signs a tag. The network is used for the registry and, where one is
// named, for the timestamping authority; a plugin may use it as it likes.
//
// Goroutines: none that outlive Sign. A plugin runs as a child process, which is
// killed when the context ends.
package notation
