// Package source reads the image that is to be converted: manifest and config of
// one platform, and its layers as plain bytes, each checked against the digest
// of its blob and its diff ID.
//
// It never writes a file and knows no format of what is made. A [Tarball] runs
// two goroutines, which its Close waits for.
package source
