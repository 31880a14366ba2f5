package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Measurement is what a link turned out to be.
type Measurement struct {
	RTT           time.Duration // median time of a TCP connect; for a relay, of one byte there and back
	BitsPerSecond float64       // of payload, to this machine, once TCP has got going: the median window
}

// String formats the measurement for a report.
func (m Measurement) String() string {
	return fmt.Sprintf("rtt %s, %.0f Mbit/s", m.RTT.Round(10*time.Microsecond), m.BitsPerSecond/1e6)
}

const (
	roundTrips  = 9
	slowStart   = 10 // round trips: 10 segments doubled 7 times fill 1.25 MB, and some to recover from the first loss
	transferFor = 1600 * time.Millisecond
	windowOf    = 200 * time.Millisecond
)

// Measure validates the link while nothing else uses it. It takes about two
// seconds and its traffic is counted by Stats.
func (l *Link) Measure(ctx context.Context) (Measurement, error) {
	target, err := listenLoopback()
	if err != nil {
		return Measurement{}, fmt.Errorf("measure link: %w", err)
	}
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		source(target)
	}()
	defer func() { target.Close(); <-done }()
	address, err := l.Forward(target.Addr().String()) //nolint:contextcheck // connections outlive the call
	if err != nil {
		return Measurement{}, fmt.Errorf("measure link: %w", err)
	}
	var m Measurement
	if m.RTT, err = l.roundTrip(ctx, address); err != nil {
		return m, fmt.Errorf("measure round-trip time: %w", err)
	}
	if m.BitsPerSecond, err = throughput(ctx, address, slowStart*l.shape.RTT); err != nil {
		return m, fmt.Errorf("measure rate: %w", err)
	}
	return m, nil
}

// source answers the byte 'e' with itself and 's' with bytes without end.
func source(listener net.Listener) {
	var conns []net.Conn
	var finished []chan struct{}
	for {
		conn, err := listener.Accept()
		if err != nil {
			break
		}
		done := make(chan struct{})
		conns, finished = append(conns, conn), append(finished, done)
		go func() { // waited for below
			defer close(done)
			answer(conn)
		}()
	}
	for i, conn := range conns {
		conn.Close()
		<-finished[i]
	}
}

func answer(conn net.Conn) {
	command := make([]byte, 1)
	for {
		if _, err := io.ReadFull(conn, command); err != nil {
			return
		}
		if command[0] == 's' {
			break
		}
		if _, err := conn.Write(command); err != nil {
			return
		}
	}
	stream := make([]byte, 128<<10)
	for {
		if _, err := conn.Write(stream); err != nil {
			return
		}
	}
}

func (l *Link) roundTrip(ctx context.Context, address string) (time.Duration, error) {
	var times []time.Duration
	for range roundTrips {
		took, err := oneRoundTrip(ctx, address, l.kind == Relay)
		if err != nil {
			return 0, err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

func oneRoundTrip(ctx context.Context, address string, echo bool) (time.Duration, error) {
	start := time.Now()
	conn, err := dial(ctx, address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if !echo {
		return time.Since(start), nil
	}
	for range 2 { // the first also waits for the relay's own connection
		start = time.Now()
		if _, err := conn.Write([]byte("e")); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// throughput skips the slow start and takes the median window, so that a moment
// in which this machine was busy does not count.
func throughput(ctx context.Context, address string, skip time.Duration) (float64, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("s")); err != nil {
		return 0, err
	}
	buf := make([]byte, 256<<10)
	var rates []float64
	begin := time.Now()
	window, bytes := begin.Add(skip), 0
	for time.Since(begin) < skip+transferFor {
		n, err := conn.Read(buf)
		if err != nil {
			return 0, err
		}
		now := time.Now()
		if now.Before(window) {
			continue
		}
		bytes += n
		if took := now.Sub(window); took >= windowOf {
			rates = append(rates, float64(bytes)*8/took.Seconds())
			window, bytes = now, 0
		}
	}
	if len(rates) == 0 {
		return 0, errors.New("no bytes after slow start")
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

// dial connects with a deadline for everything that follows.
func dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return conn, conn.SetDeadline(deadline)
}
