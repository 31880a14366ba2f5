package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/lazyblock"
)

// Options of an Export. The zero value is useful.
type Options struct {
	// Connections is how many socket pairs a device has; default 2.
	Connections int
	// ResendAfter is how long the kernel waits for an answer before it gives the
	// connection up and sends the request again over another; default 30 s.
	// A read that takes longer is no error, it is only asked for once more.
	ResendAfter time.Duration
	// DeadAfter is how long readers wait while nobody serves the device before
	// they get EIO; default 10 minutes.
	DeadAfter time.Duration
	Log       *zap.Logger
}

func (o Options) withDefaults() Options {
	if o.Connections == 0 {
		o.Connections = 2
	}
	if o.ResendAfter == 0 {
		o.ResendAfter = 30 * time.Second
	}
	if o.DeadAfter == 0 {
		o.DeadAfter = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}

// How long a connection pauses that the kernel did not want.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Export is one device served by this process.
type Export struct {
	index  uint32
	params parameters
	server *server
	log    *zap.Logger
	ctx    context.Context //nolint:containedctx // ends with Close or Abandon
	cancel context.CancelFunc
	wg     sync.WaitGroup // the connections
}

// Connect makes a device that bears the identifier backend, not empty and
// unlike that of any other device, and serves it from reader.
func Connect(reader lazyblock.RangeReader, backend string, opts Options) (*Export, error) {
	opts = opts.withDefaults()
	e := newExport(reader, backend, opts)
	conns, sockets, err := socketPairs(opts.Connections)
	if err == nil {
		e.index, err = connect(e.params, sockets)
	}
	closeAll(sockets) // the kernel has its own references
	if err != nil {
		closeAll(conns)
		e.cancel()
		return nil, err
	}
	for _, conn := range conns {
		e.wg.Go(func() { e.work(conn) })
	}
	return e, nil
}

// Resume serves a device that a former process left, found by its identifier.
func Resume(reader lazyblock.RangeReader, device Device, opts Options) (*Export, error) {
	opts = opts.withDefaults()
	e := newExport(reader, device.Backend, opts)
	e.index = device.Index
	conn, err := e.reconnect()
	if err != nil {
		e.cancel()
		return nil, err
	}
	e.wg.Go(func() { e.work(conn) })
	for range opts.Connections - 1 {
		e.wg.Go(func() { e.work(nil) })
	}
	return e, nil
}

func newExport(reader lazyblock.RangeReader, backend string, opts Options) *Export {
	ctx, cancel := context.WithCancel(context.Background())
	s := newServer(reader, opts.Log)
	return &Export{
		params: parameters{size: s.size(), backend: backend, resendAfter: opts.ResendAfter, deadAfter: opts.DeadAfter},
		server: s, log: opts.Log.With(zap.String("backend", backend)), ctx: ctx, cancel: cancel,
	}
}

// Path is the device node.
func (e *Export) Path() string { return devicePath(e.index) }

// Abandon stops serving and leaves the device: its readers wait for the next
// server, also those whose reads were under way.
func (e *Export) Abandon() {
	e.cancel()
	e.wg.Wait()
	e.server.reads.Wait()
}

// Close stops serving and ends the device. Its index is free once nobody has it
// open or mounted any more; until then reads of it fail.
func (e *Export) Close() error {
	e.Abandon()
	return disconnect(e.index)
}

// work serves conn, and others in its place when the kernel gives it up, until
// the export ends or the device is gone. A nil conn stands for one given up.
func (e *Export) work(conn *os.File) {
	delay := firstPause
	for {
		if conn != nil {
			began := time.Now()
			e.serve(conn)
			if time.Since(began) > lastPause {
				delay = firstPause // it was wanted
			}
		}
		if pause.For(e.ctx, delay) != nil {
			return
		}
		delay = min(2*delay, lastPause)
		var err error
		conn, err = e.reconnect()
		if isGone(err) {
			e.log.Warn("nbd device was ended by somebody else", zap.Uint32("index", e.index), zap.Error(err))
			return
		}
		if err != nil {
			e.log.Warn("nbd connection not renewed", zap.Uint32("index", e.index), zap.Error(err))
		}
	}
}

func (e *Export) serve(conn *os.File) {
	stop := context.AfterFunc(e.ctx, func() { _ = conn.Close() })
	err := e.server.serve(e.ctx, conn)
	if stop() {
		_ = conn.Close()
	}
	if err != nil && e.ctx.Err() == nil {
		e.log.Debug("nbd connection ended", zap.Uint32("index", e.index), zap.Error(err))
	}
}

// reconnect offers the kernel a new connection in place of a dead one.
func (e *Export) reconnect() (*os.File, error) {
	conn, socket, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	if err := reconfigure(e.index, e.params, socket); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// isGone tells whether the device does not exist, is not connected, or is not ours.
func isGone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// socketPairs makes n pairs. Those made before an error are returned with it.
func socketPairs(n int) (conns, sockets []*os.File, err error) {
	for range n {
		conn, socket, err := socketPair()
		if err != nil {
			return conns, sockets, err
		}
		conns, sockets = append(conns, conn), append(sockets, socket)
	}
	return conns, sockets, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// socketPair returns our end, which can be read without blocking a thread, and
// the kernel's.
func socketPair() (conn, socket *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make nbd socket pair: %w", err)
	}
	socket = os.NewFile(uintptr(fds[1]), "nbd socket")
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make nbd socket pair: %w", err), unix.Close(fds[0]), socket.Close())
	}
	return os.NewFile(uintptr(fds[0]), "nbd connection"), socket, nil
}
