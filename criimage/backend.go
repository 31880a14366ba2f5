package criimage

import (
	"context"
	"fmt"
	"math"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // so that a compressing peer is understood
)

const (
	// maxMessage is the largest message either side may send. It is gRPC's own
	// limit in practice; containerd enforces a smaller one (16 MiB) itself.
	maxMessage = math.MaxInt32

	// streamWindow and connWindow bound what the peer may have in flight before
	// we have read it. They are fixed so that gRPC does not measure the
	// bandwidth of a unix socket with a ping for every answer.
	streamWindow = 1 << 20
	connWindow   = 16 << 20

	// The longest pause between two attempts to reach a socket nobody listens
	// on: containerd is found again within this time of its return. An attempt
	// costs one failing connect(2).
	redialFirst = 20 * time.Millisecond
	redialMax   = 100 * time.Millisecond

	// handshakeTimeout ends an attempt in which somebody listens but does not
	// speak HTTP/2; calls wait for it. It is the kubelet's own (cri-client's
	// minConnectionTimeout): on a starved node a shorter one turns a slow
	// answer into a failure.
	handshakeTimeout = 5 * time.Second

	// defaultAuthority is what gRPC clients send over unix sockets.
	defaultAuthority = "localhost"
)

// Dial connects to the gRPC server on the unix socket at path, with the
// ordinary protobuf codec. It returns at once: the connection is made in the
// background, made again whenever it is lost, and never put to sleep.
//
// While nobody listens on the socket calls fail with Unavailable at once, and
// work again within half a second of its return.
func Dial(path string) (*grpc.ClientConn, error) {
	// With the passthrough resolver the target is never parsed as a URL, so the
	// path may contain any character.
	conn, err := grpc.NewClient("passthrough:///containerd",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}),
		grpc.WithAuthority(defaultAuthority),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redialFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialMax},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	conn.Connect()
	return conn, nil
}
