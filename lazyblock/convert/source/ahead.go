package source

import "io"

const (
	aheadBuffers = 8
	aheadSize    = 256 << 10
)

// ahead reads from r in a goroutine of its own, a few buffers in advance.
// Close, which may be called at any time, stops and waits for it.
type ahead struct {
	full  chan chunk    // filled, in order; closed by the goroutine
	empty chan []byte   // to be filled
	stop  chan struct{} // closed by Close
	now   chunk
	err   error // what Read returns from now on
}

type chunk struct {
	whole []byte // the buffer
	rest  []byte // what of it is not read yet
	err   error  // behind rest
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, aheadBuffers), empty: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r) // Close waits for it
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		var n int
		var err error
		for n < len(buf) && err == nil {
			var more int
			more, err = r.Read(buf[n:])
			n += more
		}
		select {
		case a.full <- chunk{whole: buf, rest: buf[:n], err: err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now.rest) == 0 {
		if a.err == nil {
			a.err = a.now.err
		}
		if a.err != nil {
			return 0, a.err
		}
		if a.now.whole != nil {
			a.empty <- a.now.whole // has room for all buffers there are
		}
		var ok bool
		if a.now, ok = <-a.full; !ok {
			a.now, a.err = chunk{}, io.ErrClosedPipe
		}
	}
	n := copy(p, a.now.rest)
	a.now.rest = a.now.rest[n:]
	return n, nil
}

// Close stops the reading and waits until it has. Where the source may block
// it must be closed first.
func (a *ahead) Close() {
	close(a.stop)
	for range a.full {
		// drained until the goroutine closes it
	}
}
