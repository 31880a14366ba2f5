// Package trace remembers what the first start of a container reads of a volume,
// and fetches that in a few large requests when the volume is mounted again.
//
// It owns one directory of small files, one for each artifact and registry. It
// reads no blob on anybody's behalf and fails nothing: without a trace, or with a
// wrong one, a start only takes longer.
//
// Goroutines: for each mounted volume one that records, until the start has gone
// quiet, and some that replay. They end with the volume: done waits for them.
package trace
