package link

import (
	"net"
	"sync"
	"time"
)

// startRelay makes a link without devices: bytes of TCP connections wait in the
// same lanes as packets would.
func startRelay(shape Shape) *Link {
	shape.Loss = 0 // TCP has repaired loss before a relay sees it
	l := newLink(shape, Relay)
	l.wg.Go(func() { l.down.deliver(l.stop) })
	l.wg.Go(func() { l.up.deliver(l.stop) })
	return l
}

func (l *Link) relay(target string) (address string, err error) {
	listener, err := listenLoopback()
	if err != nil {
		return "", err
	}
	if err := l.adopt(listener); err != nil {
		return "", err
	}
	l.serve(listener, func(client net.Conn) {
		select { // the handshake that the kernel has done without delay
		case <-time.After(l.shape.RTT):
		case <-l.stop:
			return
		}
		server, err := dialServer(target)
		if err != nil || l.adopt(server) != nil {
			return
		}
		defer l.release(server)
		var both sync.WaitGroup
		both.Go(func() { l.shift(l.up, server, client) })
		both.Go(func() { l.shift(l.down, client, server) })
		both.Wait()
	})
	return listener.Addr().String(), nil
}

// window bounds what one connection may have on the way, as a receive window does.
const window = 4 << 20

// shift moves bytes from one connection to the other through a lane, and waits
// until the last have arrived.
func (l *Link) shift(via *lane, dst, src net.Conn) {
	const piece = 32 << 10
	tokens := make(chan struct{}, window/piece)
	buf := make([]byte, piece)
	for {
		n, err := src.Read(buf)
		if n > 0 && !l.carry(via, buf[:n], tokens, func(p []byte) { _, _ = dst.Write(p) }) {
			return
		}
		if err != nil {
			l.carry(via, nil, tokens, func([]byte) { closeWrite(dst) })
			l.drain(tokens)
			return
		}
	}
}

// carry waits until the lane takes the piece; false when the link closes.
func (l *Link) carry(via *lane, data []byte, tokens chan struct{}, to func([]byte)) bool {
	select {
	case tokens <- struct{}{}:
	case <-l.stop:
		return false
	}
	due, ok := via.admit(time.Now(), len(data))
	for !ok { // the queue is full: the sender waits
		select {
		case <-time.After(time.Millisecond):
		case <-l.stop:
			return false
		}
		due, ok = via.admit(time.Now(), len(data))
	}
	p := parcel{append([]byte(nil), data...), due, func(p []byte) { to(p); <-tokens }}
	select {
	case via.parcels <- p:
		via.bytes.Add(int64(len(data)))
		via.count.Add(1)
		return true
	case <-l.stop:
		return false
	}
}

// drain returns once everything that holds a token has been delivered.
func (l *Link) drain(tokens chan struct{}) {
	for range cap(tokens) {
		select {
		case tokens <- struct{}{}:
		case <-l.stop:
			return
		}
	}
}
