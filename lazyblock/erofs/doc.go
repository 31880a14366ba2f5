// Package erofs writes EROFS file systems: the tree that an image's layers add
// up to, laid out and encoded for the Linux kernel to mount.
//
// Three concerns, kept apart:
//
//   - what is in the image: [Tree], [Inode] and [Layer]. A Layer is what one
//     image layer changes, whiteouts included; [Tree.Apply] merges it.
//   - where it lies: [Data] appends file contents, [Tree.Layout] places inodes
//     and directories in a region of blocks of their own.
//   - how it is spelled: the on-disk structures of format.go, written by
//     [Layout.Write].
//
// Three kinds of image come out of it. On a disk that only grows every layer
// appends its file data and then a whole new metadata region, and rewrites the
// superblock in block 0: any prefix of the layers is a valid file system. A
// metadata-only image holds no data: its regular files point into extra
// devices ([Extent.Device]). And a single layer, with its whiteouts, for overlayfs to
// put above others ([Layer.Overlay]).
//
// Sources of the on-disk format: Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h of Linux 6.1 and later. Only features that 6.1 knows are
// used with 4 KiB blocks; 512-byte blocks need Linux 6.4.
//
// The package never reads an image back, never opens a file, never compresses,
// and starts no goroutines. Its types are not safe for concurrent use. The same
// calls give the same bytes, whatever the machine.
package erofs
