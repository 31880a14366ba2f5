// Package disk reads images that are one disk: a file system as it is, in a VHD,
// or either of them within zstd frames that can be decoded one by one.
//
//	blob                    a registry's
//	seekable zstd           where the media type ends with +zstd   format/seekable
//	fixed or dynamic VHD    where it says vhd                      vhd*.go
//	ext4, xfs, EROFS or squashfs, from the first byte on           open.go
//
// Which of the outer two there are is said by the media type, never guessed: a
// disk may hold any bytes. The file system is found by its magic number, as
// mount(8) finds it. Disks with partitions and differencing VHDs are refused.
//
// A raw disk has no checksums: its bytes are as right as the registry and the
// connection to it, until the whole blob is compared with its digest. The frames
// of seekable zstd have, and they are enforced.
//
// The package keeps four bytes for each block of a dynamic VHD, never writes, and
// starts no goroutines. Its own format is defined in docs/formats.md.
package disk
