// Package estargz opens images in eStargz: layers that are gzip with the payload
// of every file, or every few MiB of it, in a member of its own, and a table of
// contents in the last one.
//
//	members | member with stargz.index.json in a tar | footer, 51 bytes
//
// The footer says where the table is. Other footers are those of layers whose
// table is in a blob of its own (46 bytes), and of stargz, the format's
// predecessor (47 bytes), whose chunks have no digests.
//
// The digest of the table is in the layer's descriptor, and so the image's
// manifest vouches for it; the table vouches for every chunk. A layer without
// that annotation, of a base image for instance, is read to its end. What is read
// of the blob besides is checked by its effect only: a footer that lies leads to a
// table of another digest.
//
// The package never looks at tars but the one around the table, and starts no
// goroutine that it does not wait for. Source: stargz-snapshotter,
// docs/estargz.md and docs/external-toc.md.
package estargz
