// Package blob reads ranges of one registry blob over HTTP.
//
// It owns the conversation about a range: asking for it, checking that the
// answer is the range that was asked for, going on after a cut connection,
// waiting and trying again, remembering where the registry redirected to. It
// never caches, never merges requests (package cache does both) and never checks
// content: that needs a format's own digests, or the whole blob.
//
// It runs no goroutines; a read happens in its caller's, and timers end with it.
package blob
