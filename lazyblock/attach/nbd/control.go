package nbd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// The generic netlink interface: include/uapi/linux/nbd-netlink.h.
const (
	familyName    = "nbd"
	familyVersion = 1

	cmdConnect     = 1 // NBD_CMD_CONNECT
	cmdDisconnectG = 2 // NBD_CMD_DISCONNECT
	cmdReconfigure = 3 // NBD_CMD_RECONFIGURE

	attrIndex       = 1  // u32
	attrSizeBytes   = 2  // u64
	attrBlockSize   = 3  // u64
	attrTimeout     = 4  // u64, seconds
	attrServerFlags = 5  // u64
	attrSockets     = 7  // nested
	attrDeadConn    = 9  // u64, seconds
	attrBackend     = 10 // string, since Linux 5.14

	sockItem = 1 // NBD_SOCK_ITEM, nested
	sockFD   = 1 // NBD_SOCK_FD, u32
)

// ErrUnsupported is what a kernel without the nbd module answers.
var ErrUnsupported = errors.New("the kernel has no nbd driver, or the module nbd is not loaded")

// Supported tells whether this kernel can be asked for nbd devices.
func Supported() error {
	return command(func(*genetlink.Conn, genetlink.Family) error { return nil })
}

// parameters of a new device.
type parameters struct {
	size        uint64 // bytes, a multiple of sectorSize
	backend     string
	resendAfter time.Duration
	deadAfter   time.Duration
}

// connect makes the kernel serve a free device from the sockets and returns its index.
func connect(p parameters, sockets []*os.File) (index uint32, err error) {
	err = command(func(conn *genetlink.Conn, family genetlink.Family) error {
		attrs := netlink.NewAttributeEncoder()
		attrs.Uint64(attrSizeBytes, p.size)
		attrs.Uint64(attrBlockSize, sectorSize)
		attrs.Uint64(attrServerFlags, flagHasFlags|flagReadOnly|flagMultiConn)
		attrs.Uint64(attrTimeout, seconds(p.resendAfter))
		attrs.Uint64(attrDeadConn, seconds(p.deadAfter))
		attrs.String(attrBackend, p.backend)
		encodeSockets(attrs, sockets)
		// The answer itself is the acknowledgement; an error comes in its place.
		answers, err := execute(conn, family, cmdConnect, attrs, netlink.Request)
		if err != nil {
			return err
		}
		index, err = decodeIndex(answers)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("connect nbd device: %w", err)
	}
	return index, nil
}

// reconfigure gives a device another socket in place of a dead one. Where it has
// no dead one the kernel drops the socket without a word: its other end reads EOF.
func reconfigure(index uint32, p parameters, socket *os.File) error {
	err := command(func(conn *genetlink.Conn, family genetlink.Family) error {
		attrs := netlink.NewAttributeEncoder()
		attrs.Uint32(attrIndex, index)
		attrs.String(attrBackend, p.backend)
		attrs.Uint64(attrTimeout, seconds(p.resendAfter))
		attrs.Uint64(attrDeadConn, seconds(p.deadAfter))
		encodeSockets(attrs, []*os.File{socket})
		_, err := execute(conn, family, cmdReconfigure, attrs, netlink.Request|netlink.Acknowledge)
		return err
	})
	if err != nil {
		return fmt.Errorf("reconfigure /dev/nbd%d: %w", index, err)
	}
	return nil
}

// disconnect ends the device: reads of it that are under way fail, as later ones do.
func disconnect(index uint32) error {
	err := command(func(conn *genetlink.Conn, family genetlink.Family) error {
		attrs := netlink.NewAttributeEncoder()
		attrs.Uint32(attrIndex, index)
		_, err := execute(conn, family, cmdDisconnectG, attrs, netlink.Request|netlink.Acknowledge)
		return err
	})
	if err != nil {
		return fmt.Errorf("disconnect /dev/nbd%d: %w", index, err)
	}
	return nil
}

// command runs do with a netlink connection of its own: commands are rare, and
// answers of two cannot be mixed up.
func command(do func(*genetlink.Conn, genetlink.Family) error) (err error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("open generic netlink: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	family, err := conn.GetFamily(familyName)
	if errors.Is(err, os.ErrNotExist) {
		return ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("find netlink family %s: %w", familyName, err)
	}
	return do(conn, family)
}

func execute(conn *genetlink.Conn, family genetlink.Family, cmd uint8, attrs *netlink.AttributeEncoder, flags netlink.HeaderFlags) ([]genetlink.Message, error) {
	data, err := attrs.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode nbd attributes: %w", err)
	}
	message := genetlink.Message{Header: genetlink.Header{Command: cmd, Version: familyVersion}, Data: data}
	return conn.Execute(message, family.ID, flags)
}

func encodeSockets(attrs *netlink.AttributeEncoder, sockets []*os.File) {
	attrs.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, socket := range sockets {
			list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(sockFD, uint32(socket.Fd()))
				return nil
			})
		}
		return nil
	})
}

func decodeIndex(answers []genetlink.Message) (uint32, error) {
	for _, answer := range answers {
		attrs, err := netlink.NewAttributeDecoder(answer.Data)
		if err != nil {
			return 0, fmt.Errorf("decode nbd answer: %w", err)
		}
		for attrs.Next() {
			if attrs.Type() == attrIndex {
				return attrs.Uint32(), attrs.Err()
			}
		}
		if err := attrs.Err(); err != nil {
			return 0, fmt.Errorf("decode nbd answer: %w", err)
		}
	}
	return 0, errors.New("the kernel's answer names no nbd device")
}

// seconds rounds up: the kernel takes 0 for "never".
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }
