package fuse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"path/filepath"
	"sort"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock"
)

// file is one served device.
type file struct {
	name   string
	node   uint64
	reader lazyblock.RangeReader
	ctx    context.Context //nolint:containedctx // ends when the file is removed; reads outlive no caller
	cancel context.CancelFunc
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

// notifyInvalidEntry sends FUSE_NOTIFY_INVAL_ENTRY (code 3) for a name in the root.
// The kernel makes the write wait for the directory's lock, which whoever looks a
// name up holds until it is answered. So this must not keep answers from being
// written: os.File lets one Write through at a time, past it any number go.
func (s *Server) notifyInvalidEntry(name string) error {
	message := make([]byte, outHeaderSize, outHeaderSize+16+len(name)+1)
	message = native.AppendUint64(message, rootNode)
	message = native.AppendUint32(message, uint32(len(name)))
	message = native.AppendUint32(message, 0)
	message = append(append(message, name...), 0)
	native.PutUint32(message, uint32(len(message)))
	native.PutUint32(message[4:], 3)
	conn, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { _, sent = unix.Write(int(fd), message) })
	return errors.Join(err, sent)
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
