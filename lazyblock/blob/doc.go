// Package blob reads ranges of one registry blob over HTTP.
//
// It owns the conversation about a range: asking for it, checking that the
// answer is the range that was asked for, going on after a cut connection,
// waiting and trying again, remembering where the registry redirected to. It
// never caches, never merges requests (package cache does both) and never checks
// content: that needs a format's own digests, or the whole blob.
//
// The blobs of one registry share its Host: how many requests may be under way,
// who goes first, and after what time a range is so slow that it is asked for a
// second time.
//
// A read happens in its caller's goroutine, but for ranges that may be asked for
// twice: these have up to two goroutines, which the read waits for.
package blob
