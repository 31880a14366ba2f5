package criimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// bytesCodec passes []byte, so that both ends of a test see exact messages.
type bytesCodec struct{}

var _ encoding.CodecV2 = bytesCodec{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	into, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("unmarshal into %T", v)
	}
	*into = data.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "" }

// answer is what the fake backend does with one call.
type answer func(stream grpc.ServerStream) error

// fakeBackend stands where containerd would: a real gRPC server on a unix
// socket that takes every method and does what the test says.
type fakeBackend struct {
	path string

	mu      sync.Mutex
	answers map[string]answer
	server  *grpc.Server
	done    chan struct{}
}

// newBackend makes a backend that is not listening yet. Without an answer for a
// method it echoes every message until the caller half-closes.
func newBackend(t testing.TB) *fakeBackend {
	t.Helper()
	b := &fakeBackend{path: filepath.Join(socketDir(t), "containerd.sock"), answers: map[string]answer{}}
	t.Cleanup(b.stop)
	return b
}

func startBackend(t testing.TB) *fakeBackend {
	t.Helper()
	b := newBackend(t)
	b.start(t)
	return b
}

// on sets what happens to calls of method.
func (b *fakeBackend) on(method string, a answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[method] = a
}

func (b *fakeBackend) start(t testing.TB) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(grpc.NewServer(
		grpc.UnknownServiceHandler(b.handle),
		grpc.ForceServerCodecV2(bytesCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
	), l)
}

// serve runs server on l until stop.
func (b *fakeBackend) serve(server *grpc.Server, l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	done := make(chan struct{})
	b.server, b.done = server, done
	go func() { // stop waits for it
		defer close(done)
		_ = server.Serve(l)
	}()
}

// stop cuts every connection.
func (b *fakeBackend) stop() {
	b.mu.Lock()
	server, done := b.server, b.done
	b.server = nil
	b.mu.Unlock()
	if server != nil {
		server.Stop()
		<-done
	}
}

func (b *fakeBackend) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	b.mu.Lock()
	a := b.answers[method]
	b.mu.Unlock()
	if a == nil {
		a = echo
	}
	return a(stream)
}

// echo sends every message back.
func echo(stream grpc.ServerStream) error {
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}

// reply answers any request with one message.
func reply(message []byte) answer {
	return func(stream grpc.ServerStream) error {
		if _, err := receiveAll(stream.RecvMsg); err != nil {
			return err
		}
		return stream.SendMsg(message)
	}
}

// hang blocks until the call ends, and tells when it began and why it ended.
func hang() (a answer, began chan struct{}, ended chan error) {
	began, ended = make(chan struct{}, 64), make(chan error, 64)
	return func(stream grpc.ServerStream) error {
		began <- struct{}{}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return stream.Context().Err()
	}, began, ended
}

// receiveAll reads messages until the other side is done.
func receiveAll(receive func(any) error) ([][]byte, error) {
	var all [][]byte
	for {
		var message []byte
		err := receive(&message)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, message)
	}
}

// startFront runs a Server before the backend and returns it with a caller's
// connection to it.
func startFront(t testing.TB, b *fakeBackend, preparer Preparer) (*Server, *grpc.ClientConn) {
	t.Helper()
	return startFrontWith(t, Options{Backend: b.path, Preparer: preparer})
}

func startFrontWith(t testing.TB, options Options) (*Server, *grpc.ClientConn) {
	t.Helper()
	options.Log = testLog(t)
	s, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(socketDir(t), "cri.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // the clean-up waits for it
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()            // nothing to wait for
		_ = s.Shutdown(ctx) // some tests have done it already
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, dial(t, path)
}

// testLog logs to t. A fuzz test's own log may not be used from inside the
// fuzz function, so it gets none.
func testLog(t testing.TB) *zap.Logger {
	if _, ok := t.(*testing.F); ok {
		return nil
	}
	return zaptest.NewLogger(t)
}

func dial(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// open starts a call of any shape with exact messages.
func open(ctx context.Context, t testing.TB, conn *grpc.ClientConn, method string, options ...grpc.CallOption) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(ctx, anyStream, method, append(options, grpc.ForceCodecV2(bytesCodec{}))...)
	if err != nil {
		t.Fatalf("open %s: %v", method, err)
	}
	return stream
}

// call makes one unary call with exact messages.
func call(ctx context.Context, conn *grpc.ClientConn, method string, request []byte, options ...grpc.CallOption) ([]byte, error) {
	var response []byte
	err := conn.Invoke(ctx, method, request, &response, append(options, grpc.ForceCodecV2(bytesCodec{}))...)
	return response, err
}

// socketDir is a short temporary directory: t.TempDir's path can be too long
// for a socket.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// receive waits for a value on a channel.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// pattern is n bytes that do not repeat soon.
func pattern(n int) []byte {
	block := make([]byte, 4099)
	for i := range block {
		block[i] = byte(i*7 + i>>8)
	}
	return bytes.Repeat(block, n/len(block)+1)[:n]
}
