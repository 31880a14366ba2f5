// Package regtest is a real HTTP registry for tests, demonstrations and
// benchmarks, with every quirk and fault switchable while it runs.
//
// It owns one listener on the loopback interface (two when blobs are redirected
// to a storage host), a directory of blobs, an index of manifests by subject and
// a log of requests. Uploads, manifests and tags are served by
// go-containerregistry's registry; blobs, referrers, the legacy ORAS endpoints,
// authentication and faults are served here, because tests need them to be
// exact: byte ranges, paging, content types, wrong answers.
//
// It never listens on anything but the address given (127.0.0.1 by default),
// never stores blobs in memory, and is never linked into the product's binary
// except for its demonstration command.
//
// Goroutines: one http.Server per listener. Close stops both, releases handlers
// held by a hanging fault, and waits for the servers and every handler to return.
package regtest
