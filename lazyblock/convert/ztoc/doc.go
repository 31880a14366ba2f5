// Package ztoc writes SOCI's tables of contents: a ztoc says what a layer's tar
// holds, and from which places of the layer, as it lies in the registry, reading can
// begin.
//
// A layer is saved to a file, checked against its digest, inflated once by package
// gzindex, which tells where blocks begin, and checked against its diff ID; then its
// spans are hashed. The result is what SOCI's own tools write for the same layer,
// byte for byte, as long as they run in UTC. Layers that a ztoc cannot describe get
// none, and an error that wraps [ErrNotIndexed].
//
// Layout: ztoc.fbs and gzip_zinfo.h of soci-snapshotter 0.16, ztoc version 0.9.
// Written by the FlatBuffers library; nothing is read. No goroutines, and no files
// are left.
package ztoc
