// Package toc makes one mountable volume of layers that are described by tables
// of contents: eStargz, zstd:chunked, SOCI and the like.
//
// A format says which files a layer has and gives random access to their bytes
// (Layer). Open merges the layers as unpacking them would, gives every regular
// file that is left a place at a 4 KiB boundary of one disk, in the order in
// which the layers hold them, and lays the metadata of an EROFS file system
// behind them:
//
//	head       superblock
//	data       the files of layer 0, then those of layer 1, …
//	metadata   inodes and directories
//
// Head and metadata are in memory. The data is nowhere: a read of the disk is
// looked up in a sorted table and becomes reads of the layers' contents. So the
// kernel does every lookup, listing and stat by itself, and asks for file bytes
// only. The disk is one device, however many layers there are: extra devices
// would each need a loop device before Linux 6.12, and the names of some sixty
// fill the page that mount(2) has for options.
//
// The package never decodes, verifies or fetches anything: that is the
// contents' part. Goroutines live only inside a call, which waits for them.
package toc
