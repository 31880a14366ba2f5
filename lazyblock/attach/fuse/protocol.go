package fuse

import (
	"encoding/binary"
	"fmt"
)

// The FUSE wire protocol as Linux speaks it (include/uapi/linux/fuse.h, version
// 7.31 and later). Only what a directory of read-only files needs is here.
// Integers have the machine's byte order.

const (
	protocolMajor = 7
	protocolMinor = 38 // FUSE_INIT_EXT came with 7.36; kernels negotiate down

	rootNode = 1 // FUSE_ROOT_ID

	inHeaderSize  = 40
	outHeaderSize = 16
	attrSize      = 88
)

// Operations (enum fuse_opcode).
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
)

// INIT flags: the bit numbers of the 64-bit set that flags and flags2 form.
const (
	initAsyncRead    = 1 << 0
	initParallelDirs = 1 << 18
	initMaxPages     = 1 << 22
	initExt          = 1 << 30
	initHasResend    = 1 << 39 // Linux 6.9: a new server may ask for pending requests again
)

// Answers to OPEN.
const (
	openKeepCache = 1 << 1
	openNoFlush   = 1 << 5 // close(2) sends no FLUSH: a server that closes its own file must not wait for itself
)

// resendBit marks in unique a request that was sent again (FUSE_UNIQUE_RESEND).
const resendBit = 1 << 63

// notifyResend asks the kernel to queue pending requests again (FUSE_NOTIFY_RESEND).
const notifyResend = 7

var native = binary.NativeEndian

// request is one message of the kernel. body aliases the receive buffer.
type request struct {
	opcode uint32
	unique uint64
	node   uint64
	body   []byte
}

func parseRequest(message []byte) (request, error) {
	if len(message) < inHeaderSize {
		return request{}, fmt.Errorf("fuse request of %d bytes, expected at least %d", len(message), inHeaderSize)
	}
	if size := native.Uint32(message); int(size) != len(message) {
		return request{}, fmt.Errorf("fuse request says %d bytes, received %d", size, len(message))
	}
	return request{
		opcode: native.Uint32(message[4:]),
		unique: native.Uint64(message[8:]),
		node:   native.Uint64(message[16:]),
		body:   message[inHeaderSize:],
	}, nil
}

// initRequest is fuse_init_in.
type initRequest struct {
	major, minor uint32
	maxReadahead uint32
	flags        uint64
}

func parseInit(body []byte) (initRequest, error) {
	if len(body) < 16 {
		return initRequest{}, fmt.Errorf("fuse INIT of %d bytes, expected at least 16", len(body))
	}
	in := initRequest{
		major:        native.Uint32(body),
		minor:        native.Uint32(body[4:]),
		maxReadahead: native.Uint32(body[8:]),
		flags:        uint64(native.Uint32(body[12:])),
	}
	if in.flags&initExt != 0 && len(body) >= 20 {
		in.flags |= uint64(native.Uint32(body[16:])) << 32
	}
	return in, nil
}

// appendInit appends fuse_init_out, 64 bytes.
func appendInit(out []byte, in initRequest, flags uint64, maxPages uint16) []byte {
	start := len(out)
	out = append(out, make([]byte, 64)...)
	body := out[start:]
	native.PutUint32(body[0:], protocolMajor)
	native.PutUint32(body[4:], min(in.minor, protocolMinor))
	native.PutUint32(body[8:], uint32(maxPages)*4096) // max_readahead
	native.PutUint32(body[12:], uint32(flags))
	native.PutUint16(body[16:], maxBackground)
	native.PutUint16(body[18:], maxBackground*3/4) // congestion_threshold
	native.PutUint32(body[20:], 4096)              // max_write: nothing is ever written
	native.PutUint32(body[24:], 1)                 // time_gran
	native.PutUint16(body[28:], maxPages)
	native.PutUint32(body[32:], uint32(flags>>32))
	return out
}

// attributes is what of fuse_attr differs between nodes.
type attributes struct {
	node uint64
	size uint64
	mode uint32
}

func appendAttr(out []byte, a attributes) []byte {
	start := len(out)
	out = append(out, make([]byte, attrSize)...)
	body := out[start:]
	native.PutUint64(body[0:], a.node)
	native.PutUint64(body[8:], a.size)
	native.PutUint64(body[16:], (a.size+511)/512)
	native.PutUint32(body[60:], a.mode)
	native.PutUint32(body[64:], 1) // nlink
	native.PutUint32(body[80:], 4096)
	return out
}

// appendEntry appends fuse_entry_out: node a, never to be asked about again.
func appendEntry(out []byte, a attributes) []byte {
	out = native.AppendUint64(out, a.node)
	out = native.AppendUint64(out, 0) // generation
	out = native.AppendUint64(out, validSeconds)
	out = native.AppendUint64(out, validSeconds)
	out = native.AppendUint64(out, 0) // nanoseconds of both
	return appendAttr(out, a)
}

// appendAttrOut appends fuse_attr_out.
func appendAttrOut(out []byte, a attributes) []byte {
	out = native.AppendUint64(out, validSeconds)
	out = native.AppendUint64(out, 0)
	return appendAttr(out, a)
}

// appendDirent appends fuse_dirent, padded to 8 bytes, unless out would exceed limit.
func appendDirent(out []byte, limit int, node uint64, next uint64, kind uint32, name string) ([]byte, bool) {
	size := (24 + len(name) + 7) &^ 7
	if len(out)+size > limit {
		return out, false
	}
	start := len(out)
	out = append(out, make([]byte, size)...)
	body := out[start:]
	native.PutUint64(body[0:], node)
	native.PutUint64(body[8:], next)
	native.PutUint32(body[16:], uint32(len(name)))
	native.PutUint32(body[20:], kind)
	copy(body[24:], name)
	return out, true
}

// readRequest is what is needed of fuse_read_in.
type readRequest struct {
	offset uint64
	size   uint32
}

func parseRead(body []byte) (readRequest, error) {
	if len(body) < 24 {
		return readRequest{}, fmt.Errorf("fuse READ of %d bytes, expected at least 24", len(body))
	}
	return readRequest{offset: native.Uint64(body[8:]), size: native.Uint32(body[16:])}, nil
}
