// Package materialise turns an image's original layers into one plain directory:
// what a container on the ordinarily pulled image would see, without overlayfs
// and without anything of ours below it.
//
// It owns the way from a repository to that directory: whole blobs are fetched
// to the same file system, compared with their digests, decompressed, compared
// with their diff IDs, unpacked by containerd's own code and laid over each other
// by the rules of overlayfs. Nothing is left of an attempt that fails. It never
// decides when that is due, never touches containerd, and mounts nothing.
//
// Each layer is first unpacked beside the others exactly as containerd does for
// its overlayfs snapshotter. To unpack it over those below would be simpler and
// wrong: an entry lib/x over a lower layer's link lib -> usr/lib would follow the
// link, where overlayfs shows a directory that hides it.
//
// Goroutines: Layers fetches a few layers ahead of the one that it unpacks, and
// waits for all of it before it returns.
package materialise
