// Package ondisk reads EROFS images that somebody else wrote: superblock, table
// of extra devices, inodes, directories, attributes, and where the bytes of
// regular files lie.
//
// It believes nothing: every size is compared with the image's before memory is
// taken for it, a directory is entered once, names and attributes are those that
// Linux could have made. What breaks the format is reason.FormatCorrupt; what is
// sound but not read here (algorithms but LZ4, features younger than Linux 6.12) is
// reason.NotAttachable.
//
// It never returns file content, never writes, never mounts, and starts no
// goroutines but within a call. Sources: Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h of Linux 6.12.
package ondisk
