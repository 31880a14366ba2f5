// Package gzindex reads a gzip file from its middle: checkpoints, places where a
// DEFLATE block begins, divide it into spans, and each span is inflated by itself
// from the 32 KiB of output before it.
//
// It holds an inflater of its own (RFC 1951), because those of Go's libraries can
// neither begin between two bytes nor tell where blocks begin, and because a span
// lies in memory as a whole, which is faster to inflate than a stream. Concatenated
// members (RFC 1952), as parallel compressors write them, are one stream.
//
//	Checkpoint, Index   where spans lie; Index.Decode inflates one
//	Reader              inflates a whole file and tells where blocks begin: how
//	                    checkpoints are made
//	Builder             an Index out of what a Reader tells
//
// SOCI's zinfo and overlaybd's gzip.meta spell an Index in two ways; their packages
// parse them, and Index.Content reads a blob through one, by package span. This one
// knows neither format and starts no goroutine. No
// input makes it panic, or write beyond the memory it was given.
package gzindex
