// Package registry reaches a registry the way the node's containerd does.
//
// Hosts come from containerd's certs.d tree: mirrors in their order with ns=,
// capabilities, certificates and extra headers, then the registry itself.
// Tokens are fetched by containerd's own authorizer. So whatever pulls on this
// node through containerd is found here too, and nothing has to be configured
// twice.
//
// The package owns connections and tokens, shared by all repositories of a
// Client: a warm pull meets open connections and a valid token. Credentials are
// looked for when a host wants some and never before: those of the request, then
// each Source's, docker's config last. It never
// interprets a manifest, never retries (its callers know their deadlines), never
// sends credentials to a host that was only redirected to, and never logs or
// stores them. It runs no goroutines beside net/http's.
package registry
