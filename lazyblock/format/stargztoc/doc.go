// Package stargztoc reads the table of contents that eStargz and zstd:chunked
// share, a JSON document with a row for each file and each further chunk of a
// file, and makes a layer of it and the blob that it describes.
//
// Where the table lies and what vouches for it is the formats' own concern; so
// is how a chunk is compressed. The layer's content is an arrangement of our own:
// the files of the table one behind the other, without the tar between them. Of
// each chunk the digest in the table is enforced.
//
// The document is read as a stream. What it may claim is bounded before anything
// is allocated for it. Goroutines live only inside Open, which waits for them.
//
// Source: stargz-snapshotter, docs/stargz-estargz.md and estargz/types.go;
// containers/storage, pkg/chunked/internal/minimal/compression.go.
package stargztoc
