// Package negotiate turns an image reference into a plan: which image it names,
// which accelerated forms are attached to it, which of them plays on this node,
// and for every other one the reason why not.
//
// It owns the reading side of discovery: resolving the reference as containerd
// does, choosing the platform, asking for referrers in every dialect that is in
// use (OCI distribution-spec 1.1, its fallback tag, the two ORAS endpoints that
// came before), fetching and checking what they name, ranking. Publishing an
// accelerated form is package publish below.
//
// It never opens a layer, mounts anything or knows CRI. It trusts no answer:
// everything content-addressed is hashed, every body has a limit, an artifact
// must name the subject that was asked about, whatever a list says.
//
// On a warm connection an image costs three round trips one after another: its
// manifest; its config and its referrers, together; the artifact's manifest. So
// does a multi-platform one: the index; the manifest and its referrers; the
// config and the artifact's manifest. Where a signature is wanted, its manifest
// and its content are two more; the tables of SOCI v2 are one, of an index's manifest
// that is fetched once nothing better was found.
//
// Goroutines: Plan runs the config's fetch beside discovery, legacy beside
// current endpoints, and up to four artifact fetches at once; the referrers of an
// index's manifest are asked for while it is fetched. It returns when all of them
// have ended. Between calls runs only the search for legacy endpoints, where the
// rules want it: at most one for each project of a registry and day, each within
// the time allowed for discovery, until Negotiator.Close.
package negotiate
