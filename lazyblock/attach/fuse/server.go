// Package fuse serves devices as read-only files in one flat FUSE directory,
// so that the kernel can mount an EROFS file, or put a loop device over any
// other, without a block driver of ours.
//
// It owns the FUSE connection and the table of files. It never interprets what
// the files hold, and never opens them itself: a process that waits for its own
// server cannot answer.
//
// Goroutines: one reads requests; each READ is answered by one of its own,
// at most as many as the kernel sends at a time. Close waits for all of them.
//
// A file's node number is derived from its name, so a later process that
// receives the connection's descriptor can serve the same nodes (Resume). As
// long as somebody holds a duplicate of the descriptor, readers wait while no
// server runs; Linux 6.9 and later send the requests that a former server took
// and never answered to the next one.
package fuse

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	maxBackground = 64    // readahead requests the kernel keeps under way
	maxPages      = 256   // 1 MiB a request, the kernel's limit (FUSE_MAX_MAX_PAGES)
	validSeconds  = 86400 // files never change: how long the kernel may trust a name
	receiveSize   = 64 << 10
	readAheadKiB  = 1024
)

// Options of a Server.
type Options struct {
	Log *zap.Logger
}

// Server answers the kernel for one mounted directory.
type Server struct {
	dir  string
	conn *os.File
	log  *zap.Logger

	mu        sync.RWMutex
	nodes     map[uint64]*file
	changed   chan struct{}  // closed and replaced when nodes or resuming change
	resuming  bool           // reads of unknown nodes wait for their file
	abandoned bool           // reads that fail now are left to the next server
	wg        sync.WaitGroup // the request loop and every READ under way

	ready    chan struct{} // closed when INIT was answered
	readyOne sync.Once
	buffers  sync.Pool
}

// Mount mounts a new FUSE directory at dir, which is made if missing, and
// serves it. A dead mount of a former server at dir is detached first.
func Mount(dir string, opts Options) (*Server, error) {
	if err := detach(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make fuse directory: %w", err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY)
	if err := unix.Mount("referee", dir, "fuse.referee", flags, data); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount fuse at %s: %w", dir, err)
	}
	s := newServer(dir, fd, opts)
	s.start()
	<-s.ready
	s.raiseReadAhead()
	return s, nil
}

// Resume serves dir over the connection that a former process mounted there,
// and asks the kernel to send unanswered requests again (Linux 6.9; before that
// they stay unanswered). Reads of files that are not added yet wait until they
// are, or until Resumed is called. It takes conn over.
func Resume(dir string, conn *os.File, opts Options) (*Server, error) {
	fd, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = conn.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("resume fuse at %s: %w", dir, err)
	}
	s := newServer(dir, fd, opts)
	s.resuming = true
	s.readyOne.Do(func() { close(s.ready) })
	s.start()
	if err := s.notify(notifyResend); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, errors.Join(fmt.Errorf("ask the kernel to resend requests: %w", err), s.Abandon())
	}
	return s, nil
}

func newServer(dir string, fd int, opts Options) *Server {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	return &Server{
		dir:     dir,
		conn:    os.NewFile(uintptr(fd), "/dev/fuse"),
		log:     opts.Log,
		nodes:   make(map[uint64]*file),
		changed: make(chan struct{}),
		ready:   make(chan struct{}),
		buffers: sync.Pool{New: func() any { b := make([]byte, outHeaderSize+maxPages*4096); return &b }},
	}
}

// Dir is where the files are.
func (s *Server) Dir() string { return s.dir }

// Descriptor is the connection's file. Whoever keeps a duplicate of it keeps
// readers waiting, instead of failing, while no server runs.
func (s *Server) Descriptor() *os.File { return s.conn }

// Close detaches the directory, ends reads under way with EIO and waits for all
// goroutines. Mounts that the kernel made of its files are dead afterwards.
func (s *Server) Close() error {
	err := detach(s.dir)
	return errors.Join(err, s.Abandon())
}

// Abandon stops serving and leaves the mount: where somebody else holds a
// duplicate of the descriptor, readers wait for the next server, also those
// whose reads were under way.
func (s *Server) Abandon() error {
	s.mu.Lock()
	s.abandoned = true
	s.announce()
	s.mu.Unlock()
	err := s.conn.Close()
	s.mu.Lock()
	for _, f := range s.nodes {
		f.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Server) start() { s.wg.Go(s.loop) }

// loop reads requests until the connection ends.
func (s *Server) loop() {
	buffer := make([]byte, receiveSize)
	for {
		n, err := s.conn.Read(buffer)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // the request was withdrawn before we read it
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF):
			return
		default:
			s.log.Error("fuse connection broke", zap.Error(err))
			return
		}
		req, err := parseRequest(buffer[:n])
		if err != nil {
			s.log.Error("fuse request not understood", zap.Error(err))
			continue
		}
		s.dispatch(req)
	}
}

// notify sends a notification without a body: unique is 0, error is its code.
func (s *Server) notify(code uint32) error {
	message := make([]byte, outHeaderSize)
	native.PutUint32(message, outHeaderSize)
	native.PutUint32(message[4:], code)
	_, err := s.conn.Write(message)
	return err
}

// raiseReadAhead lets sequential readers of the files ask for 1 MiB at a time;
// the kernel starts every connection with 128 KiB. Without it reads are only slower.
func (s *Server) raiseReadAhead() {
	var stat unix.Stat_t
	if err := unix.Stat(s.dir, &stat); err != nil {
		return
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	if err := os.WriteFile(path, []byte(strconv.Itoa(readAheadKiB)), 0); err != nil {
		s.log.Debug("read-ahead not raised", zap.Error(err))
	}
}

// detach takes every mount off dir.
func detach(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
