// Package soci reads images through SOCI indexes (soci-snapshotter): the image's own
// tar layers, compressed with gzip or not at all, stay as they are, and a table of
// contents beside each, its ztoc, tells which files it has and from where its bytes
// can be decompressed.
//
//	flat.go      FlatBuffers, as far as they are needed, without trust
//	ztoc.go      the table: sizes, files, digests of spans
//	zinfo.go     checkpoints, which become a gzindex.Index
//	prefetch.go  spans that the publisher expects a start to read
//	open.go      all of them together, and layers that have no table (plainlayer): a volume
//
// The life of a read: package toc asks for bytes of a layer's uncompressed tar;
// package span fetches the spans that hold them; the SHA-256 of each is compared with
// what the table says before it is inflated. A table itself was compared with its
// digest. So what is read is what the table's author saw, and whether that is the
// image's layer is known when the whole blob has been compared with its digest.
//
// The package never looks at manifests beyond descriptors and their annotations, and
// never opens connections. Goroutines live only inside Open, which waits for them.
package soci
