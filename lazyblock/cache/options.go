package cache

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Options configure a Store. The zero value has the defaults.
type Options struct {
	// BlockSize is the unit in which presence is noted: a power of two from
	// 4 KiB to 1 MiB, default 4 KiB; blobs of more than 16 GiB have a larger one. A
	// blob cached with another is fetched anew.
	BlockSize int64
	// FetchSize is what a miss fetches at least, aligned: a power of two of at
	// least BlockSize, default 256 KiB.
	FetchSize int64
	// Guess is how much is fetched, without anybody waiting, behind a miss that
	// goes on with no earlier read: half of this at first, then between nothing
	// and this, as it proves to be of use. Default 2 MiB, negative: nothing.
	Guess int64
	// MaxRequest is the longest request made of neighbouring misses, default 4 MiB.
	MaxRequest int64
	// MaxReadAhead is how far a reader that goes forward is read ahead of at
	// most, default 2 MiB. Negative: not at all.
	MaxReadAhead int64
	// MaxBytes bounds what is kept; blobs that nobody has open are removed,
	// least recently used first, to stay below it. When those in use fill it,
	// further reads are not kept. 0: no bound.
	MaxBytes int64
	// LowBytes is down to where unused blobs are removed once MaxBytes would be
	// passed, so that not every read has to make room. Default nine tenths of it.
	LowBytes int64
	// KeepFree is how many bytes of the file system are left to others: where less
	// is free, unused blobs are removed, and then nothing is kept. Default 1 GiB, or
	// a twentieth of the file system if that is less. Negative: the file system may
	// be filled.
	KeepFree int64
	// SpareOfDisk is the percentage of the file system below which Spare finds no
	// room, and scratch files are given up: what nobody waits for must not bring the
	// node to where the kubelet removes images. Default 15, which is its
	// imagefs.available (evictionHard of its default configuration). Negative: the file
	// system may be filled.
	SpareOfDisk int
	// MaxBuffered bounds the memory of all fetches under way, default 64 MiB;
	// those that nobody waits for take half of it, or one request, at most.
	MaxBuffered int64
	// FlushInterval is how often maps are written, default 5s: what a power cut,
	// or the death of the process, can lose.
	FlushInterval time.Duration

	Log *zap.Logger // default: silent
}

func (o *Options) setDefaults() error {
	for _, d := range []struct {
		field *int64
		value int64
	}{
		{&o.BlockSize, 4 << 10},
		{&o.FetchSize, 256 << 10},
		{&o.Guess, 2 << 20},
		{&o.MaxRequest, 4 << 20},
		{&o.MaxReadAhead, 2 << 20},
		{&o.MaxBuffered, 64 << 20},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.SpareOfDisk == 0 {
		o.SpareOfDisk = 15
	}
	if o.LowBytes == 0 {
		o.LowBytes = o.MaxBytes - o.MaxBytes/10
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	switch {
	case !powerOfTwo(o.BlockSize) || o.BlockSize < 4<<10 || o.BlockSize > 1<<20:
		return fmt.Errorf("block size %d is not a power of two from 4 KiB to 1 MiB", o.BlockSize)
	case !powerOfTwo(o.FetchSize) || o.FetchSize < o.BlockSize:
		return fmt.Errorf("fetch size %d is not a power of two of at least the block size", o.FetchSize)
	case o.MaxRequest < o.FetchSize || o.MaxRequest%o.BlockSize != 0:
		return fmt.Errorf("longest request %d is not a multiple of the block size, of at least the fetch size", o.MaxRequest)
	case o.LowBytes < 0 || o.LowBytes > o.MaxBytes:
		return fmt.Errorf("low mark %d is not between 0 and the %d bytes kept at most", o.LowBytes, o.MaxBytes)
	case o.MaxBuffered < o.MaxRequest:
		return fmt.Errorf("%d bytes of buffers hold no request of %d", o.MaxBuffered, o.MaxRequest)
	}
	return nil
}

// blockSize is that of a blob of so many bytes.
func (o *Options) blockSize(size int64) int64 {
	n := o.BlockSize
	for size/n > maxBlocks && 2*n <= o.FetchSize {
		n *= 2
	}
	return n
}

func powerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }
