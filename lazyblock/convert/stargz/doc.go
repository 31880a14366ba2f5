// Package stargz makes the layers of eStargz and zstd:chunked images with those
// formats' own library (stargz-snapshotter/estargz).
//
// A layer's tar is fetched and checked against the digest of its blob and its
// diff ID, and spelled anew: every non-empty file begins a gzip member or zstd
// frame of its own, a table of contents follows, and the files a start is expected
// to read may be moved to the front. So the layer's plain bytes and diff ID are
// new ones.
//
// The same input gives the same bytes, on every machine: what the library derives
// from the number of processors is fixed here. The package never pushes and makes
// no manifest. The library runs a few goroutines, compresses side by side, and
// keeps copies of a layer in the system's temporary folder; all of it has ended
// when [Image] returns.
package stargz
