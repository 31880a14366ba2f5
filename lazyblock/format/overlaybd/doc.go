// Package overlaybd reads and writes the native layer format of overlaybd
// (DADI): each layer is a block diff of one sparse virtual disk, and a stack
// of layers is that disk.
//
// A layer blob is a file within a file within a file:
//
//	tar    one member, 1536 bytes in front      tarwrap.go
//	ZFile  compressed blocks and their index    zfile*.go
//	LSMT   sectors and a sorted segment index   lsmt*.go
//
// Tar and ZFile are optional and recognised by their magic numbers.
//
// The life of a read: Device.ReadRange looks the sectors up in one merged
// segment index, in which the topmost layer that has a sector owns it. Each
// piece becomes a range of a layer's LSMT file and so a range of ZFile blocks.
// Blocks that are neighbours in the blob are fetched with one ReadRange, and
// what belongs to several places is fetched side by side. Each block's CRC is
// checked before a byte of it is handed out; there is no path on which a
// failed check yields bytes.
//
// Opening a stack costs one round trip when the layers are of usual shape: the
// head and a guessed tail of every blob are fetched at the same time, and
// everything needed to serve reads is parsed from those buffers.
//
// The package never opens files or connections, never caches blob bytes (the
// RangeReader below does), and never looks at manifests. Goroutines live only
// inside a call, which waits for them.
package overlaybd
