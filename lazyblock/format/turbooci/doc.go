// Package turbooci reads overlaybd's other form, TurboOCI (formerly FastOCI): each
// layer of it is a small archive of file-system metadata, an ext4 or EROFS image
// without file contents, over an image's original layer, which has the contents.
//
//	layer.go     the archive and what is in it
//	gzipmeta.go  gzip.meta: checkpoints of the original layer, if that is compressed
//	open.go      all of them together: a volume
//
// The metadata is an LSMT file whose segments may refer to sectors of the original
// layer's uncompressed tar; package overlaybd reads it, and stacks all layers into
// the one disk that they are. The tar is read by package gzindex.
//
// The archives are compared with their digests, and held in memory: they are small,
// and what the kernel asks for first. The bytes of original layers have neither
// digest nor checksum: bytes that do not inflate, or do not end where the next
// checkpoint begins, are refused, and other wrong ones are found when the whole blob
// is compared with its digest.
//
// The package never looks at manifests beyond descriptors and their annotations, and
// never opens connections. Goroutines live only inside a call, which waits for them.
package turbooci
