// Package erofslayers reads images whose layers are EROFS images, as containerd
// 2.1 and later convert and pull them.
//
// One layer is mounted as it is: the kernel decodes whatever it holds. Several are
// one mount all the same, because a container's root is to have one lower
// directory: the inodes and directories of every layer are read once, merged as
// overlayfs would merge the mounted layers, and written anew by package toc. The
// bytes of files stay where they are, in the layers' blobs. Overlaying mounts of
// the layers instead would give a root that cannot be mounted with an ID mapping
// (overlayfs has none as a source), so no user-namespaced pod could use it.
//
// Files that are compressed within a layer, with LZ4, are expanded here when they
// are read. Files with another algorithm, or with fragments, cannot be merged and
// are refused with reason.NotAttachable, as are layers compressed as a whole, unless
// with zstd that can be sought.
//
// EROFS has no checksums of data: what is read is as right as the registry and the
// connection to it, until the whole blob is compared with its digest.
//
// Goroutines live only inside a call, which waits for them.
package erofslayers
