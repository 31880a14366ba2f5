// Package nydus reads Nydus images of RAFS version 6.
//
// Such an image is one bootstrap, the metadata of the merged file system, and the
// blobs with the chunks of its files. The bootstrap is an EROFS image whose files
// point into extra devices, one a blob: the kernel mounts it as it is, and what is
// served as a blob's device is its chunks, uncompressed, each at the address that
// the bootstrap gives it.
//
//	bootstrap   fetched whole, compared with its digest, kept in memory   bootstrap.go
//	rafs        what RAFS adds to EROFS: tables of blobs and chunks       rafs.go
//	blobmeta    the same of a blob, at its end, where chunks are batched  blobmeta.go, blobtoc.go
//	            or data is in an original layer (zran)
//	chunks      spans of a blob (package span), decoded and verified      chunks.go
//	hints       what the image's builder wants fetched first              hints.go
//
// The digest of every chunk is enforced where the image has one, and it nearly
// always has. Refused, with reason.NotAttachable: RAFS version 5, encrypted blobs,
// blobs that are kept outside the registry, and of the modes that leave data in the
// image's original layers all but zran, in which gzip is inflated from places that
// a blob lists.
//
// Source: the structures of dragonflyoss/nydus, July 2026. Goroutines live only
// inside a call, which waits for them.
package nydus
