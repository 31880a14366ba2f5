// Package convert makes forms of OCI images that are EROFS file systems: overlaybd
// layers whose stack is one disk ([Image]), one file system a layer ([Layers]), or
// one for the whole image ([Flat]). Packages below it make the forms that are tables
// over layers.
//
// In the first, every layer of the image becomes one overlaybd layer that holds the layer's
// file data, a new metadata region for the merged tree, and the superblock. So
// any prefix of the stack is a valid file system equal to the image's first
// layers, and a layer's bytes depend on itself and the layers below only:
// images that share base layers share their converted blobs. No root, no
// external tool, no block device.
//
// The life of a layer: fetch (its bytes are hashed on the way) → decompress
// (hashed again) → tar entries → file data straight to the layer writer, tree
// changes to memory. Only when both digests are right is the tree changed and
// the metadata written.
//
// The package never pushes, makes no manifest, and keeps nothing between calls.
// Two goroutines read ahead while a layer is converted, one of compressed and
// one of plain bytes; whoever started them waits for both before it returns.
package convert
