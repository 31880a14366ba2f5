package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Offloads of a TUN device (include/uapi/linux/if_tun.h). With them the kernel
// hands over TCP segments in bundles of up to 64 KiB behind a virtio header, which
// the other device takes as they are; without, 1 Gbit/s would cost a core.
const (
	tunChecksum = 0x01 // TUN_F_CSUM
	tunTSO4     = 0x02 // TUN_F_TSO4

	vnetHeader = 10 // struct virtio_net_hdr
	maxPacket  = vnetHeader + 65535 + 64
	mtu        = 1500
)

// startTUN makes the devices, one here and one in a new namespace.
func startTUN(shape Shape) (_ *Link, err error) {
	l := newLink(shape, TUN)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.space, err = newNamespace(); err != nil {
		return nil, err
	}
	// A lost packet must be one packet, not a bundle.
	offload := shape.Loss == 0
	near, name, err := openTUN(offload)
	if err != nil {
		return nil, err
	}
	if err := l.adopt(near); err != nil {
		return nil, err
	}
	nearAddr, farAddr, err := subnet(name)
	if err != nil {
		return nil, err
	}
	l.near, l.far = nearAddr.String(), farAddr.String()
	if err := configure(name, nearAddr); err != nil {
		return nil, err
	}
	var far *os.File
	err = l.space.do(func() (err error) { far, err = farEnd(offload, farAddr); return err })
	if err != nil {
		return nil, err
	}
	if err := l.adopt(far); err != nil {
		return nil, err
	}
	l.wg.Go(func() { take(near, far, l.up) })
	l.wg.Go(func() { take(far, near, l.down) })
	l.wg.Go(func() { l.up.deliver(l.stop) })
	l.wg.Go(func() { l.down.deliver(l.stop) })
	return l, nil
}

func farEnd(offload bool, addr netip.Addr) (*os.File, error) {
	if err := configure("lo", netip.AddrFrom4([4]byte{127, 0, 0, 1})); err != nil {
		return nil, err
	}
	// Else the kernel remembers the path's window, and a second connection
	// starts faster than it would towards a server that is not only ours.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("set up far end: %w", err)
	}
	f, name, err := openTUN(offload)
	if err != nil {
		return nil, err
	}
	if err := configure(name, addr); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openTUN makes a device that lives as long as the file, named by the kernel.
func openTUN(offload bool) (*os.File, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open TUN device: %w", err)
	}
	req, err := unix.NewIfreq("latlink%d")
	if err != nil {
		return nil, "", errors.Join(err, unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	if err == nil && offload {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunChecksum|tunTSO4)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("make TUN device: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), req.Name()), req.Name(), nil
}

// subnet picks two addresses of the network set aside for benchmarks
// (198.18.0.0/15, RFC 2544), by the number that the kernel gave the device, so
// that links side by side do not meet.
func subnet(device string) (near, far netip.Addr, err error) {
	var n int
	if _, err := fmt.Sscanf(device, "latlink%d", &n); err != nil || n >= 1<<15 {
		return near, far, fmt.Errorf("number of device %q: %w", device, errors.Join(err, unix.ERANGE))
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 198<<24|18<<16|uint32(n)<<2)
	b[3]++
	near = netip.AddrFrom4(b)
	return near, near.Next(), nil
}

// configure sets a device's address within a network of four and brings it up.
func configure(device string, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("configure %s: %w", device, err)
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 252}) }},
		{unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		req, err := unix.NewIfreq(device)
		if err == nil {
			err = step.set(req)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, step.request, req)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", device, err)
		}
	}
	return nil
}

// take reads packets from one device into a lane that ends in the other, until
// the device closes.
func take(from, to *os.File, via *lane) {
	buf := make([]byte, maxPacket)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if n <= vnetHeader {
			continue
		}
		via.send(buf[:n], wireSize(buf[:n]), func(p []byte) { _, _ = to.Write(p) }) // a device that closes loses packets
	}
}

// wireSize is what a bundle of TCP segments would measure as packets: every
// segment after the first repeats the headers.
func wireSize(packet []byte) int {
	const gsoNone = 0
	size := len(packet) - vnetHeader
	headers := int(binary.NativeEndian.Uint16(packet[2:]))
	segment := int(binary.NativeEndian.Uint16(packet[4:]))
	if packet[1] == gsoNone || segment == 0 || headers >= size {
		return size
	}
	segments := (size - headers + segment - 1) / segment
	return size + (segments-1)*headers
}
