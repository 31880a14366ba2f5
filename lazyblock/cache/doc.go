// Package cache keeps what has been read of blobs on this node, by digest.
//
// A blob is a sparse file and a map of the blocks that are in it. Everyone who
// opens the same digest shares both, and the fetches under way: a block is
// fetched once, however many readers wait for it. Neighbouring misses become one
// request, a reader that goes forward is read ahead of, and what lies behind a lone
// miss is guessed to be wanted soon, as long as such guesses prove right.
//
// The rule that everything here keeps: a block may be lost, never invented. In
// memory a block is present after it was written. On disk the map says so only
// after the file was synced, and the map is replaced as a whole, with a checksum.
// A disk that is full or broken makes reads slower, not wrong: they are answered
// from memory.
//
// Bytes are what the origin said, until a format's verification has seen them (see
// Blob.Invalidate) or the whole blob was compared with its digest (see Blob.Seal),
// which is done only when it is asked for. The package never makes room at the
// expense of a blob that is open, and never fills the file system it is on: that
// belongs to the node.
//
// What can be made again from blobs may be kept in scratch files (see Scratch). They
// have no names, and no restart finds them.
//
// Goroutines: one a Store, which writes the maps and gives up scratch files (stopped
// and awaited by Store.Close), and one a fetch (awaited by the last Blob.Close of that
// digest).
//
// Layout, version 1, below the store's directory:
//
//	lock                             flock(2)ed by the process that uses it
//	v1/sha256-<hex>-<size>/map       see mapfile.go
//	v1/sha256-<hex>-<size>/data-<id> sparse; the id is in the map
//	v1/scratch-<random>              only while a scratch file is made
package cache
