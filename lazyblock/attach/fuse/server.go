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
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock"
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

// file is one served device.
type file struct {
	name   string
	node   uint64
	reader lazyblock.RangeReader
	ctx    context.Context //nolint:containedctx // ends when the file is removed; reads outlive no caller
	cancel context.CancelFunc
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

// Resumed says that every file of the former server that still exists has been
// added: reads of others fail from now on.
func (s *Server) Resumed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resuming = false
	s.announce()
}

// announce wakes reads that wait for a file. s.mu is held.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
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

// Add makes reader appear as the file name and returns its path.
func (s *Server) Add(name string, reader lazyblock.RangeReader) (string, error) {
	if name == "" || name != filepath.Base(name) || len(name) > unix.NAME_MAX {
		return "", fmt.Errorf("add fuse file %q: not a file name", name)
	}
	node := nodeOf(name)
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, taken := s.nodes[node]; taken {
		cancel()
		return "", fmt.Errorf("add fuse file %q: node is taken by %q", name, old.name)
	}
	s.nodes[node] = &file{name: name, node: node, reader: reader, ctx: ctx, cancel: cancel}
	s.announce()
	return filepath.Join(s.dir, name), nil
}

// Remove makes the file name vanish. Reads of it that are under way end with
// EIO, later ones fail too. It does not close the reader.
func (s *Server) Remove(name string) {
	node := nodeOf(name)
	s.mu.Lock()
	f := s.nodes[node]
	delete(s.nodes, node)
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.cancel()
	// The kernel was told to trust the name for a day: tell it otherwise.
	if err := s.notifyInvalidEntry(name); err != nil && !errors.Is(err, unix.ENOENT) {
		s.log.Debug("fuse name not invalidated", zap.String("file", name), zap.Error(err))
	}
}

// Has reports whether the file name is served.
func (s *Server) Has(name string) bool { return s.lookupNode(nodeOf(name)) != nil }

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

// dispatch answers req at once, or hands it to a goroutine if it is a READ.
func (s *Server) dispatch(req request) {
	switch req.opcode {
	case opForget, opBatchForget, opInterrupt:
		// No answer is allowed (FORGET) or needed: node numbers are never reused,
		// and an interrupted reader is released when its data comes.
	case opInit:
		s.answerInit(req)
	case opLookup:
		s.answerLookup(req)
	case opGetattr:
		s.answerGetattr(req)
	case opOpen:
		if s.lookupNode(req.node) == nil {
			s.reply(req, unix.ENOENT, nil)
			return
		}
		s.reply(req, 0, openAnswer(openKeepCache|openNoFlush))
	case opOpendir:
		s.reply(req, 0, openAnswer(0))
	case opRelease, opReleasedir, opDestroy:
		s.reply(req, 0, nil)
	case opReaddir:
		s.answerReaddir(req)
	case opStatfs:
		s.reply(req, 0, make([]byte, 80))
	case opRead:
		in, err := parseRead(req.body)
		if err != nil || in.size > maxPages*4096 {
			s.reply(req, unix.EINVAL, nil)
			return
		}
		req.body = nil // aliases the loop's buffer
		s.wg.Go(func() { s.answerRead(req, in) })
	default:
		s.reply(req, unix.ENOSYS, nil)
	}
}

func (s *Server) answerInit(req request) {
	in, err := parseInit(req.body)
	if err != nil || in.major != protocolMajor {
		s.log.Error("fuse INIT refused", zap.Uint32("major", in.major), zap.Error(err))
		s.reply(req, unix.EPROTO, nil)
		return
	}
	// Passthrough is left out on purpose: a connection with it counts as a stacked
	// file system, and EROFS then refuses its files (ENOTBLK).
	wanted := uint64(initAsyncRead | initParallelDirs | initMaxPages | initExt | initHasResend)
	s.reply(req, 0, appendInit(nil, in, wanted&in.flags, maxPages))
	s.readyOne.Do(func() { close(s.ready) })
}

func (s *Server) answerLookup(req request) {
	name := string(trimNul(req.body))
	f := s.lookupNode(nodeOf(name))
	if req.node != rootNode || f == nil || f.name != name {
		s.reply(req, unix.ENOENT, nil)
		return
	}
	s.reply(req, 0, appendEntry(nil, f.attributes()))
}

func (s *Server) answerGetattr(req request) {
	if req.node == rootNode {
		s.reply(req, 0, appendAttrOut(nil, attributes{node: rootNode, mode: unix.S_IFDIR | 0o500}))
		return
	}
	f := s.lookupNode(req.node)
	if f == nil {
		s.reply(req, unix.ENOENT, nil)
		return
	}
	s.reply(req, 0, appendAttrOut(nil, f.attributes()))
}

func (s *Server) answerReaddir(req request) {
	in, err := parseRead(req.body)
	if err != nil {
		s.reply(req, unix.EINVAL, nil)
		return
	}
	files := s.sorted()
	var out []byte
	for i := in.offset; i < uint64(len(files)); i++ {
		var fits bool
		out, fits = appendDirent(out, int(in.size), files[i].node, i+1, unix.DT_REG, files[i].name)
		if !fits {
			break
		}
	}
	s.reply(req, 0, out)
}

// answerRead reads and replies; any failure is EIO, never short or wrong data.
func (s *Server) answerRead(req request, in readRequest) {
	f := s.awaitNode(req.node)
	if f == nil {
		s.fail(req)
		return
	}
	if in.offset >= uint64(f.reader.Size()) {
		s.reply(req, 0, nil)
		return
	}
	size := int(min(uint64(in.size), uint64(f.reader.Size())-in.offset))
	buffer := s.buffers.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer s.buffers.Put(buffer)
	data := (*buffer)[outHeaderSize : outHeaderSize+size]
	n, err := f.reader.ReadRange(f.ctx, data, int64(in.offset))
	if n < size {
		if s.fail(req) {
			s.log.Warn("lazy read failed", zap.String("file", f.name), zap.Uint64("off", in.offset), zap.Int("len", size), zap.Error(err))
		}
		return
	}
	s.write(req, 0, (*buffer)[:outHeaderSize+size])
}

// fail answers EIO, unless the next server is to answer, and tells whether it did.
func (s *Server) fail(req request) bool {
	s.mu.RLock()
	abandoned := s.abandoned
	s.mu.RUnlock()
	if !abandoned {
		s.reply(req, unix.EIO, nil)
	}
	return !abandoned
}

// awaitNode returns the file of node. While resuming it waits for it.
func (s *Server) awaitNode(node uint64) *file {
	for {
		s.mu.RLock()
		f, wait, changed := s.nodes[node], s.resuming && !s.abandoned, s.changed
		s.mu.RUnlock()
		if f != nil || !wait {
			return f
		}
		<-changed
	}
}

func (s *Server) lookupNode(node uint64) *file {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nodes[node]
}

func (s *Server) sorted() []*file {
	s.mu.RLock()
	files := make([]*file, 0, len(s.nodes))
	for _, f := range s.nodes {
		files = append(files, f)
	}
	s.mu.RUnlock()
	sort.Slice(files, func(i, j int) bool { return files[i].name < files[j].name })
	return files
}

func (s *Server) reply(req request, errno syscall.Errno, body []byte) {
	s.write(req, errno, append(make([]byte, outHeaderSize, outHeaderSize+len(body)), body...))
}

// write fills the header of message and sends it.
func (s *Server) write(req request, errno syscall.Errno, message []byte) {
	native.PutUint32(message, uint32(len(message)))
	native.PutUint32(message[4:], uint32(-int32(errno)))
	native.PutUint64(message[8:], req.unique) // a request sent again keeps its resendBit
	_, err := s.conn.Write(message)
	// ENOENT: the reader was killed meanwhile. Closed: so were we.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.ENODEV) {
		s.log.Error("fuse answer not accepted", zap.Uint32("opcode", req.opcode), zap.Error(err))
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

// notifyInvalidEntry sends FUSE_NOTIFY_INVAL_ENTRY (code 3) for a name in the root.
func (s *Server) notifyInvalidEntry(name string) error {
	message := make([]byte, outHeaderSize, outHeaderSize+16+len(name)+1)
	message = native.AppendUint64(message, rootNode)
	message = native.AppendUint32(message, uint32(len(name)))
	message = native.AppendUint32(message, 0)
	message = append(append(message, name...), 0)
	native.PutUint32(message, uint32(len(message)))
	native.PutUint32(message[4:], 3)
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

func (f *file) attributes() attributes {
	return attributes{node: f.node, size: uint64(f.reader.Size()), mode: unix.S_IFREG | 0o400}
}

// nodeOf derives a file's node number from its name.
func nodeOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	return binary.BigEndian.Uint64(h.Sum(nil))&^resendBit | 2 // never 0 or rootNode
}

func openAnswer(flags uint32) []byte {
	body := make([]byte, 16)
	native.PutUint32(body[8:], flags)
	return body
}

func trimNul(name []byte) []byte {
	if n := len(name); n > 0 && name[n-1] == 0 {
		return name[:n-1]
	}
	return name
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
