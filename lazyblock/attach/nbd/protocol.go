package nbd

import (
	"encoding/binary"
	"fmt"
)

// The transmission phase with simple replies: NBD protocol specification
// (NetworkBlockDevice/nbd, doc/proto.md), "Transmission phase". All numbers are
// big-endian.
const (
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	requestSize = 28 // magic 4, flags 2, type 2, cookie 8, offset 8, length 4
	replySize   = 16 // magic 4, error 4, cookie 8

	cmdRead       = 0
	cmdWrite      = 1
	cmdDisconnect = 2

	errPermission = 1  // NBD_EPERM
	errIO         = 5  // NBD_EIO
	errInvalid    = 22 // NBD_EINVAL

	// maxRead bounds one request. The kernel never asks for more: it limits
	// requests to 65536 sectors (drivers/block/nbd.c, nbd_dev_add).
	maxRead = 32 << 20
)

// Transmission flags of the export (include/uapi/linux/nbd.h).
const (
	flagHasFlags  = 1 << 0
	flagReadOnly  = 1 << 1
	flagMultiConn = 1 << 8
)

// request is one message from the kernel. Its cookie is given back in the reply.
type request struct {
	command uint16
	cookie  uint64
	offset  uint64
	length  uint32
}

func parseRequest(header [requestSize]byte) (request, error) {
	if magic := binary.BigEndian.Uint32(header[:]); magic != requestMagic {
		return request{}, fmt.Errorf("parse nbd request: magic is %#x", magic)
	}
	return request{
		command: binary.BigEndian.Uint16(header[6:]),
		cookie:  binary.BigEndian.Uint64(header[8:]),
		offset:  binary.BigEndian.Uint64(header[16:]),
		length:  binary.BigEndian.Uint32(header[24:]),
	}, nil
}

// putReply fills the header of a reply.
func putReply(header []byte, code uint32, cookie uint64) {
	binary.BigEndian.PutUint32(header, replyMagic)
	binary.BigEndian.PutUint32(header[4:], code)
	binary.BigEndian.PutUint64(header[8:], cookie)
}
