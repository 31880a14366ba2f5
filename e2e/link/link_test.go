package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/link"
)

// Not parallel: every case measures what this machine can do.
func TestMeasuredShape(t *testing.T) { //nolint:paralleltest // see above
	needTUN(t)
	for name, shape := range map[string]link.Shape{
		"region": link.Region,
		"wan":    link.WAN,
		"slow":   {RTT: 20 * time.Millisecond, BitsPerSecond: 20e6},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := link.StartTUN(t.Context(), shape)
			if err != nil {
				t.Fatal(err)
			}
			checkShape(t, l)
		})
	}
}

func TestRelayShape(t *testing.T) { //nolint:paralleltest // measures
	checkShape(t, link.StartRelay(t.Context(), link.WAN))
}

// checkShape is generous upwards in time and downwards in rate, since tests
// share their processors with others, and strict the other way: a link must
// never be better than it claims. Where others held the processors for so long that
// TCP took packets for lost, the link is measured again.
func checkShape(t *testing.T, l *link.Link) {
	t.Helper()
	defer closeLink(t, l)
	const attempts = 5
	for attempt := 1; ; attempt++ {
		shape := l.Shape()
		m, err := l.Measure(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s link of %s measures %s, %+v", l.Kind(), shape, m, l.Stats())
		if m.RTT < shape.RTT || m.BitsPerSecond > 1.1*shape.BitsPerSecond {
			t.Fatalf("round-trip time %s, rate %.0f bit/s: better than %s and %.0f", m.RTT, m.BitsPerSecond, shape.RTT, shape.BitsPerSecond)
		}
		if m.RTT <= 2*shape.RTT+30*time.Millisecond && m.BitsPerSecond >= 0.3*shape.BitsPerSecond {
			return
		}
		if attempt == attempts {
			t.Fatalf("round-trip time %s, rate %.0f bit/s in the last of %d attempts, want %s and %.0f", m.RTT, m.BitsPerSecond, attempts, shape.RTT, shape.BitsPerSecond)
		}
	}
}

func TestForwardKeepsBytes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(context.Context, link.Shape) (*link.Link, error){
		"tun": link.StartTUN,
		"relay": func(ctx context.Context, shape link.Shape) (*link.Link, error) {
			return link.StartRelay(ctx, shape), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "tun" {
				needTUN(t)
			}
			l, err := start(t.Context(), link.Shape{RTT: 4 * time.Millisecond, BitsPerSecond: 500e6})
			if err != nil {
				t.Fatal(err)
			}
			defer closeLink(t, l)
			address, err := l.Forward(echoServer(t))
			if err != nil {
				t.Fatal(err)
			}
			sent := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
			if got := roundTrip(t, address, sent); !bytes.Equal(got, sent) {
				t.Errorf("sent %d bytes, got %d others back", len(sent), len(got))
			}
			for direction, traffic := range map[string]link.Traffic{"down": l.Stats().Down, "up": l.Stats().Up} {
				if traffic.Bytes < int64(len(sent)) || traffic.Bytes > int64(len(sent))*5/4 {
					t.Errorf("%s: %d bytes counted of %d sent", direction, traffic.Bytes, len(sent))
				}
			}
		})
	}
}

func TestListenBeyondLink(t *testing.T) {
	t.Parallel()
	needTUN(t)
	l, err := link.StartTUN(t.Context(), link.Shape{RTT: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer closeLink(t, l)
	listener, err := l.Listen(5000)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("connected in %s: not through the link", took)
	}
}

func TestLossAndSmallQueueDropPackets(t *testing.T) {
	t.Parallel()
	needTUN(t)
	for name, shape := range map[string]link.Shape{
		"loss":        {RTT: 2 * time.Millisecond, BitsPerSecond: 100e6, Loss: 0.02},
		"small queue": {RTT: 2 * time.Millisecond, BitsPerSecond: 20e6, QueueBytes: 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := link.StartTUN(t.Context(), shape)
			if err != nil {
				t.Fatal(err)
			}
			defer closeLink(t, l)
			address, err := l.Forward(echoServer(t))
			if err != nil {
				t.Fatal(err)
			}
			sent := bytes.Repeat([]byte{1, 2, 3}, 200_000)
			if got := roundTrip(t, address, sent); !bytes.Equal(got, sent) {
				t.Error("bytes came back changed")
			}
			if stats := l.Stats(); stats.Down.Dropped+stats.Up.Dropped == 0 {
				t.Errorf("nothing dropped: %+v", stats)
			}
		})
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	needTUN(t)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := link.StartTUN(ctx, link.WAN)
	if err != nil {
		t.Fatal(err)
	}
	address, err := l.Forward(echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address) //nolint:noctx // the link's end must end it
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(address)
	device := deviceTowards(t, net.ParseIP(host))
	cancel()
	closeLink(t, l)
	// By its index, which no other device gets: name and addresses may be those of
	// another link by now.
	if left, err := net.InterfaceByIndex(device.Index); err == nil {
		t.Errorf("device %s is still there", left.Name)
	}
	if _, err := l.Listen(0); !errors.Is(err, net.ErrClosed) && err == nil {
		t.Error("a closed link still listens")
	}
}

// deviceTowards returns the device whose network holds ip.
func deviceTowards(t *testing.T, ip net.IP) net.Interface {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		addrs, err := device.Addrs()
		if err != nil {
			continue // it has gone since
		}
		for _, addr := range addrs {
			if network, ok := addr.(*net.IPNet); ok && network.Contains(ip) {
				return device
			}
		}
	}
	t.Fatalf("no device leads to %s", ip)
	return net.Interface{}
}

func needTUN(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a TUN device needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("no TUN devices here: %v", err)
	}
}

func closeLink(t *testing.T, l *link.Link) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("close link: %v", err)
	}
}

func roundTrip(t *testing.T, address string, sent []byte) []byte {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	wrote := make(chan error, 1)
	go func() { // waited for by the receive below
		_, err := conn.Write(sent)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			err = errors.Join(err, half.CloseWrite())
		}
		wrote <- err
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Fatal(err)
	}
	return got
}

func echoServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func TestShapeString(t *testing.T) {
	t.Parallel()
	if got := link.Bad.String(); !strings.Contains(got, "50ms") || !strings.Contains(got, "200 Mbit/s") || !strings.Contains(got, "0.5 % loss") {
		t.Errorf("String() = %q", got)
	}
}
