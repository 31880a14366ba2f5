// Package seekable gives random access to blobs in the zstd seekable format: zstd
// frames one after another, and behind them, in a skippable frame that every
// decoder passes over, a table of their lengths and checksums.
//
// Only tables with checksums are taken, and every frame is compared with its own
// before a byte of it is handed out. Source: contrib/seekable_format of the zstd
// project, version 0.1.0 of its specification.
//
// The package never writes and starts no goroutines of its own; those of package
// span live within a call.
package seekable
