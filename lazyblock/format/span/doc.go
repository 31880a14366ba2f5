// Package span reads a sequence of bytes that a blob holds in independently
// decodable pieces: the chunks of eStargz, zstd:chunked and Nydus, the spans of
// SOCI.
//
// The life of a read: Reader.ReadRange looks up which spans it needs. A span that
// is in memory, or that somebody decodes at the moment, is taken from there. The
// others are fetched, neighbours in the blob with one read, and decoded side by
// side. Decode verifies as far as the format allows; bytes that it refuses are
// dropped from the cache below, read once more, and then given up. There is no
// path on which refused bytes are handed out.
//
// What was decoded and of which only a part was wanted stays in a Memory, which
// all readers of a process may share: the kernel asks for a span of some MiB in
// pieces. Spans that were wanted whole are in the kernel's page cache now. What
// leaves the memory is written to a Scratch on disk, from where a part of it is read
// back without the rest, unless nobody waited for it: whoever reads everything in the
// background keeps it elsewhere.
//
// The package never opens files or connections and knows no format. Goroutines
// live only inside a call, which waits for them.
package span
