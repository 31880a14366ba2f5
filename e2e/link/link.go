package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Shape describes a link, the same in both directions.
type Shape struct {
	RTT           time.Duration // round-trip time of an idle link
	BitsPerSecond float64       // 0: unlimited
	Loss          float64       // share of packets lost, 0 to 1
	QueueBytes    int           // bytes that may wait for the wire; 0: 100 ms at the rate
}

// The profiles in which results are reported.
var (
	Region = Shape{RTT: 10 * time.Millisecond, BitsPerSecond: 1e9}
	WAN    = Shape{RTT: 50 * time.Millisecond, BitsPerSecond: 200e6}
	Bad    = Shape{RTT: 50 * time.Millisecond, BitsPerSecond: 200e6, Loss: 0.005}
)

func (s Shape) String() string {
	rate := "unlimited"
	if s.BitsPerSecond > 0 {
		rate = fmt.Sprintf("%g Mbit/s", s.BitsPerSecond/1e6)
	}
	if s.Loss > 0 {
		rate += fmt.Sprintf(", %g %% loss", s.Loss*100)
	}
	return fmt.Sprintf("%s, %s", s.RTT, rate)
}

// queueBytes: a router's usual buffer, but never less than a few large packets.
func (s Shape) queueBytes() int {
	if s.QueueBytes > 0 {
		return s.QueueBytes
	}
	return max(256<<10, int(s.BitsPerSecond/8*0.1))
}

// Kind says how a link is made.
type Kind string

// The kinds. Results over a Relay must be marked as such.
const (
	TUN   Kind = "tun"
	Relay Kind = "tcp-relay"
)

// Traffic counts what went through one direction, in bytes on the wire.
type Traffic struct{ Packets, Bytes, Dropped int64 }

// Stats counts what went through a link: Down to this machine's side, Up to the
// registry's.
type Stats struct{ Down, Up Traffic }

// Link is a running link. Its methods are safe for concurrent use.
type Link struct {
	shape    Shape
	kind     Kind
	down, up *lane
	near     string    // address of this machine's end
	far      string    // address of the registry's end
	space    namespace // where the far end is; zero for a relay

	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	open   map[closer]struct{} // what Close closes
	err    error
}

type closer interface{ Close() error }

// Start makes a link that lasts until Close, or until ctx is done. It falls back
// to a relay of TCP connections where TUN devices cannot be made; see Kind.
func Start(ctx context.Context, shape Shape) (*Link, error) {
	l, err := startTUN(shape)
	if err != nil {
		l = startRelay(shape)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	return l, nil
}

// StartTUN is Start without the fall-back.
func StartTUN(ctx context.Context, shape Shape) (*Link, error) {
	l, err := startTUN(shape)
	if err != nil {
		return nil, fmt.Errorf("start link: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	return l, nil
}

// StartRelay makes a link of the kind Relay, whatever the machine can do.
func StartRelay(ctx context.Context, shape Shape) *Link {
	l := startRelay(shape)
	context.AfterFunc(ctx, func() { _ = l.Close() })
	return l
}

func newLink(shape Shape, kind Kind) *Link {
	return &Link{
		shape: shape, kind: kind, down: newLane(shape), up: newLane(shape),
		stop: make(chan struct{}), open: make(map[closer]struct{}),
	}
}

// Kind says how the link is made.
func (l *Link) Kind() Kind { return l.kind }

// Shape is what the link was asked to be; Measure tells what it is.
func (l *Link) Shape() Shape { return l.shape }

// Stats returns the counters so far.
func (l *Link) Stats() Stats { return Stats{Down: l.down.traffic(), Up: l.up.traffic()} }

// Listen opens a TCP port at the link's far end; 0 picks a free one. Clients on
// this machine that connect to the listener's address come through the link. The
// caller closes it; Close does too.
func (l *Link) Listen(port int) (net.Listener, error) {
	if l.kind == Relay {
		return nil, errors.New("listen beyond link: a relay has no far end; use Forward")
	}
	var listener net.Listener
	err := l.space.do(func() (err error) {
		config := net.ListenConfig{Control: useCubic}
		listener, err = config.Listen(context.Background(), "tcp4", fmt.Sprintf("%s:%d", l.far, port))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen beyond link: %w", err)
	}
	if err := l.adopt(listener); err != nil {
		return nil, err
	}
	return listener, nil
}

// useCubic sets the congestion control of a listener, and so of the connections
// it accepts: results must not depend on the host's choice. A kernel without it
// keeps its own.
func useCubic(_, _ string, conn syscall.RawConn) error {
	var err error
	control := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(control, err)
}

// Forward makes a TCP server of this machine ("127.0.0.1:5000") reachable
// through the link and returns the address to use for that. The server may as
// well be one that Listen has given its listener.
func (l *Link) Forward(target string) (address string, err error) {
	if l.kind == Relay {
		return l.relay(target)
	}
	listener, err := l.Listen(0)
	if err != nil {
		return "", err
	}
	l.serve(listener, func(near net.Conn) { l.splice(near, target) })
	return listener.Addr().String(), nil
}

// Close ends the link and all connections through it.
func (l *Link) Close() error {
	l.once.Do(func() {
		close(l.stop)
		l.mu.Lock()
		l.closed = true
		for c := range l.open {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				l.err = errors.Join(l.err, err)
			}
		}
		l.mu.Unlock()
		l.wg.Wait()
		l.err = errors.Join(l.err, l.space.close())
	})
	return l.err
}

// adopt makes Close close c; on a closed link it closes c at once.
func (l *Link) adopt(c closer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(net.ErrClosed, c.Close())
	}
	l.open[c] = struct{}{}
	return nil
}

func (l *Link) release(c closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	_ = c.Close() // may be closed already
}
