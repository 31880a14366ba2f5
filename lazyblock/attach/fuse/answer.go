package fuse

import (
	"errors"
	"os"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

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
	buffer := s.buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer s.buffers.Put(buffer)
	data := (*buffer)[outHeaderSize : outHeaderSize+size]
	n, err := f.reader.ReadRange(f.ctx, data, int64(in.offset))
	if n < size {
		if s.fail(req) {
			// Whoever gave the reader away knows whether that is worth more.
			s.log.Debug("lazy read failed", zap.String("file", f.name), zap.Uint64("off", in.offset), zap.Int("len", size), zap.Error(err))
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
