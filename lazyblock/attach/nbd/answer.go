package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/lazyblock"
)

const (
	// sectorSize is the smallest block Linux knows: EROFS images may use it.
	sectorSize = 512
	// readsAtOnce bounds the reads of one device that are under way, and so their
	// memory: the kernel merges requests up to 1280 KiB by default.
	readsAtOnce = 64
)

// server answers the requests for one device.
type server struct {
	reader lazyblock.RangeReader
	log    *zap.Logger
	slots  chan struct{} // one for every read under way
	reads  sync.WaitGroup
	pool   sync.Pool // of *[]byte
}

func newServer(reader lazyblock.RangeReader, log *zap.Logger) *server {
	return &server{
		reader: reader,
		log:    log,
		slots:  make(chan struct{}, readsAtOnce),
		pool:   sync.Pool{New: func() any { return new([]byte) }},
	}
}

// size is the device's size: the last sector is filled up with zeros.
func (s *server) size() uint64 {
	return (uint64(s.reader.Size()) + sectorSize - 1) / sectorSize * sectorSize
}

// serve answers what comes over conn until that ends, which is no error, or
// until ctx does. Reads that are under way then are cancelled but not waited for.
func (s *server) serve(ctx context.Context, conn io.ReadWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &replies{conn: conn, broken: cancel}
	in := bufio.NewReader(conn)
	var header [requestSize]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("receive nbd request: %w", err)
		}
		req, err := parseRequest(header)
		if err != nil {
			return err // nothing after it can be understood
		}
		switch {
		case req.command == cmdDisconnect: // no answer; the end of conn follows
		case req.command == cmdWrite: // the device is read-only, but the payload follows
			if _, err := io.CopyN(io.Discard, in, int64(req.length)); err != nil {
				return fmt.Errorf("receive nbd payload: %w", err)
			}
			out.fail(req, errPermission)
		case req.command != cmdRead, !s.inside(req):
			out.fail(req, errInvalid)
		default:
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			s.reads.Go(func() {
				defer func() { <-s.slots }()
				s.read(ctx, req, out)
			})
		}
	}
}

// inside tells whether a read is within the device.
func (s *server) inside(req request) bool {
	size := s.size()
	return req.length <= maxRead && req.offset <= size && uint64(req.length) <= size-req.offset
}

// read answers one read; any failure is EIO, never short or wrong data.
func (s *server) read(ctx context.Context, req request, out *replies) {
	buffer := s.pool.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer s.pool.Put(buffer)
	if need := replySize + int(req.length); cap(*buffer) < need {
		*buffer = make([]byte, need)
	}
	message := (*buffer)[:replySize+int(req.length)]
	data := message[replySize:]
	if beyond := int64(req.offset) + int64(len(data)) - s.reader.Size(); beyond > 0 {
		kept := max(0, len(data)-int(beyond)) // beyond is less than a sector
		clear(data[kept:])
		data = data[:kept]
	}
	if n, err := s.reader.ReadRange(ctx, data, int64(req.offset)); n < len(data) {
		if ctx.Err() != nil {
			return // whoever serves the device next gets the request again, or nobody wants it
		}
		// Whoever gave the reader away knows whether that is worth more.
		s.log.Debug("lazy read failed", zap.Uint64("off", req.offset), zap.Uint32("len", req.length), zap.Error(err))
		out.fail(req, errIO)
		return
	}
	putReply(message, 0, req.cookie)
	out.write(message)
}

// replies writes whole replies to one connection, in any order.
type replies struct {
	mu     sync.Mutex
	conn   io.Writer
	broken context.CancelFunc
}

func (r *replies) fail(req request, code uint32) {
	var header [replySize]byte
	putReply(header[:], code, req.cookie)
	r.write(header[:])
}

func (r *replies) write(message []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.conn.Write(message); err != nil {
		r.broken() // the kernel closed it: it sends its requests again elsewhere
	}
}
