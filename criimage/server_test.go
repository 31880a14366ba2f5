package criimage

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/eventually"
)

func TestNewNeedsABackend(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("no error")
	}
}

// A listener that systemd made is served, and its socket is not removed.
func TestServeListenerHandedOver(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	path := filepath.Join(socketDir(t), "cri.sock")
	original, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	original.SetUnlinkOnClose(false)
	file, err := original.File() // as a descriptor passed by systemd
	if err != nil {
		t.Fatal(err)
	}
	_ = original.Close()
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()

	s, err := New(Options{Backend: b.path})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // received below
	if _, err := call(t.Context(), dial(t, path), "/x.Y/Z", []byte{1}); err != nil {
		t.Error(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := receive(t, served, "serve"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("systemd's socket: %v", err)
	}
}

func TestShutdownLetsPullsFinish(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	pulling, release := make(chan struct{}), make(chan struct{})
	b.on(pullMethod, func(stream grpc.ServerStream) error {
		if _, err := receiveAll(stream.RecvMsg); err != nil {
			return err
		}
		close(pulling)
		<-release
		return stream.SendMsg([]byte{})
	})
	events, began, ended := hang() // a stream that never ends by itself
	b.on(runtime.RuntimeService_GetContainerEvents_FullMethodName, events)
	settled := make(chan error, 1)
	s, front := startFront(t, b, &fakePreparer{
		prepare: func(context.Context, *runtime.PullImageRequest) func(error) {
			return func(err error) { settled <- err }
		},
	})
	open(t.Context(), t, front, runtime.RuntimeService_GetContainerEvents_FullMethodName)
	receive(t, began, "the stream of events")
	pulled := pull(t.Context(), t, front, image("a"))
	receive(t, pulling, "the pull")

	shut := make(chan error, 1)
	go func() { shut <- s.Shutdown(t.Context()) }() // received below
	eventually.True(t, "new calls are refused", func() bool {
		_, err := call(t.Context(), front, "/x.Y/Z", []byte{1})
		return status.Code(err) == codes.Unavailable
	})
	if len(shut) != 0 || len(pulled) != 0 || len(ended) != 0 {
		t.Error("something ended before the pull")
	}
	close(release)
	if err := receive(t, pulled, "the pull"); err != nil {
		t.Errorf("pull in flight: %v", err)
	}
	if err := receive(t, shut, "shutdown"); err != nil {
		t.Error(err)
	}
	if len(settled) != 1 {
		t.Error("shutdown did not wait for settle")
	}
	if err := receive(t, ended, "the stream of events to end"); err == nil {
		t.Error("the stream of events ended by itself")
	}
}

func TestShutdownCancelsPullsThatTakeTooLong(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	a, began, ended := hang()
	b.on(pullMethod, a)
	s, front := startFront(t, b, &fakePreparer{})
	pulled := pull(t.Context(), t, front, image("a"))
	receive(t, began, "the pull")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if err := receive(t, pulled, "the pull"); err == nil {
		t.Error("the pull succeeded")
	}
	if err := receive(t, ended, "the backend's call to end"); err == nil {
		t.Error("the backend's call ended by itself")
	}
}

// A thousand calls of every kind at once leave nothing behind. Not parallel:
// it counts the process's goroutines.
func TestThousandCallsLeaveNothingBehind(t *testing.T) { //nolint:paralleltest // counts goroutines
	b := startBackend(t)
	b.on(pullMethod, reply([]byte("answer")))
	s, front := startFront(t, b, &fakePreparer{})
	if _, err := call(t.Context(), front, "/x.Y/Z", []byte{1}); err != nil { // connections stand
		t.Fatal(err)
	}
	before := goruntime.NumGoroutine()
	kinds := []func(ctx context.Context, i int) error{
		func(ctx context.Context, _ int) error { // unary
			_, err := call(ctx, front, "/x.Y/Z", pattern(1000))
			return err
		},
		func(ctx context.Context, i int) error { // pull, shared by some
			_, err := call(ctx, front, pullMethod, pullOf(t, image([]string{"a", "b", "c"}[i%3])))
			return err
		},
		func(ctx context.Context, _ int) error { // stream
			stream := open(ctx, t, front, bidi)
			for range 5 {
				if err := stream.SendMsg(pattern(1000)); err != nil {
					return err
				}
			}
			if err := stream.CloseSend(); err != nil {
				return err
			}
			_, err := receiveAll(stream.RecvMsg)
			return err
		},
		func(ctx context.Context, i int) error { // cancelled at some moment
			ctx, cancel := context.WithTimeout(ctx, time.Duration(i)*50*time.Microsecond)
			defer cancel()
			if _, err := call(ctx, front, "/x.Y/Forever", []byte{1}); status.Code(err) != codes.DeadlineExceeded {
				return status.Errorf(codes.Internal, "got %v", err)
			}
			return nil
		},
		func(ctx context.Context, _ int) error { // answered with an error, caller's side open
			stream := open(ctx, t, front, "/x.Y/Refused")
			if _, err := receiveAll(stream.RecvMsg); status.Code(err) != codes.AlreadyExists {
				return status.Errorf(codes.Internal, "got %v", err)
			}
			return nil
		},
	}
	b.on("/x.Y/Forever", func(stream grpc.ServerStream) error { <-stream.Context().Done(); return nil })
	b.on("/x.Y/Refused", func(grpc.ServerStream) error { return status.Error(codes.AlreadyExists, "") })
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if err := kinds[i%len(kinds)](t.Context(), i); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	unused(t, s)
	eventually.True(t, "the goroutines are gone", func() bool { return goruntime.NumGoroutine() <= before })
}
