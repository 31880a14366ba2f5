// Package zstdchunked opens images in zstd:chunked: layers that are zstd with the
// payload of every file, or of parts of it, in frames of its own, and a table of
// contents in a skippable frame at the end.
//
//	frames | skippable frame with the table, compressed | … | footer
//
// There are two dialects: that of stargz-snapshotter and BuildKit, whose table is
// eStargz's and whose frames go on with the next tar header, and that of
// containers/storage (Podman, Buildah, Skopeo), whose chunks are cut by content
// and may be holes. They differ in the prefix of their annotations.
//
// A layer's annotations say where the table is and which digest it has,
// compressed; so the image's manifest vouches for it, and the table for every
// chunk. The footer says the same without anybody vouching for it, and is not
// read; neither is the tar-split, from which the other readers make the original
// tar again.
//
// The package starts no goroutine that it does not wait for. Source:
// containers/storage, pkg/chunked; stargz-snapshotter, estargz/zstdchunked.
package zstdchunked
