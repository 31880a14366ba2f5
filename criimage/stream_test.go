package criimage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/eventually"
)

const bidi = "/example.Other/Exec"

func TestSixtyFourMiBBothWays(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, &fakePreparer{})
	message := pattern(64 << 20)
	// The second is larger than what is worth parsing, and still arrives whole.
	for _, method := range []string{runtime.ImageService_ListImages_FullMethodName, runtime.ImageService_PullImage_FullMethodName} {
		got, err := call(t.Context(), front, method, message)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if !bytes.Equal(got, message) {
			t.Errorf("%s: got %d other bytes", method, len(got))
		}
	}
}

// Request and answer take turns on an open stream: neither direction waits for
// the other to end.
func TestBothDirectionsAreOpenAtOnce(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	stream := open(t.Context(), t, front, bidi)
	for i := range 50 {
		if err := stream.SendMsg([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		var got []byte
		if err := stream.RecvMsg(&got); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0] != byte(i) {
			t.Fatalf("turn %d: got %v", i, got)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if rest, err := receiveAll(stream.RecvMsg); err != nil || len(rest) != 0 {
		t.Errorf("after half-close: %v, %v", rest, err)
	}
}

func TestHalfCloseReachesBackendWhileAnswersGoOn(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	b.on(bidi, func(stream grpc.ServerStream) error {
		requests, err := receiveAll(stream.RecvMsg) // returns only at half-close
		if err != nil {
			return err
		}
		for range 100 {
			if err := stream.SendMsg([]byte{byte(len(requests))}); err != nil {
				return err
			}
		}
		return nil
	})
	stream := open(t.Context(), t, front, bidi)
	for range 3 {
		if err := stream.SendMsg([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	answers, err := receiveAll(stream.RecvMsg)
	if err != nil || len(answers) != 100 || answers[99][0] != 3 {
		t.Errorf("got %d answers, %v", len(answers), err)
	}
}

// The header is not held back until the first message.
func TestHeaderArrivesBeforeMessages(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	release := make(chan struct{})
	b.on(bidi, func(stream grpc.ServerStream) error {
		if err := stream.SendHeader(metadata.Pairs("x-early", "yes")); err != nil {
			return err
		}
		select {
		case <-release:
			return nil
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream := open(ctx, t, front, bidi)
	header, err := stream.Header()
	if err != nil || len(header["x-early"]) != 1 {
		t.Fatalf("header %v, %v", header, err)
	}
	close(release)
	if _, err := receiveAll(stream.RecvMsg); err != nil {
		t.Error(err)
	}
}

// A backend may end a call while the caller's sending side is still open.
func TestBackendEndsFirst(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]codes.Code{"with success": codes.OK, "with an error": codes.FailedPrecondition} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			_, front := startFront(t, b, nil)
			b.on(bidi, func(stream grpc.ServerStream) error {
				var first []byte
				if err := stream.RecvMsg(&first); err != nil {
					return err
				}
				return status.Error(want, "enough")
			})
			stream := open(t.Context(), t, front, bidi)
			if err := stream.SendMsg([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := receiveAll(stream.RecvMsg); status.Code(err) != want {
				t.Errorf("got %v", err)
			}
			if err := stream.SendMsg([]byte{2}); !errors.Is(err, io.EOF) {
				t.Errorf("sending into an ended call: %v", err)
			}
		})
	}
}

// stalls waits until count has not moved for a while, and fails when it passes
// limit.
func stalls(t *testing.T, count *atomic.Int64, limit int64) int64 {
	t.Helper()
	const still = 40
	last, unchanged := int64(-1), 0
	eventually.True(t, "the writer stalls", func() bool {
		now := count.Load()
		if now > limit {
			t.Fatalf("%d messages are buffered somewhere, want at most %d", now, limit)
		}
		if now != last || now == 0 {
			last, unchanged = now, 0
			return false
		}
		unchanged++
		return unchanged >= still
	})
	return last
}

// Slow readers at either end must stop the writer at the other end.
func TestSlowReaderStopsWriter(t *testing.T) {
	t.Parallel()
	const (
		size  = 64 << 10
		total = 1600 // 100 MiB
		limit = 192  // 12 MiB: some windows, two messages, and gRPC's own growth of the caller's window
	)
	message := pattern(size)

	t.Run("caller reads slowly", func(t *testing.T) {
		t.Parallel()
		b := startBackend(t)
		_, front := startFront(t, b, nil)
		var sent atomic.Int64
		b.on(bidi, func(stream grpc.ServerStream) error {
			for range total {
				if err := stream.SendMsg(message); err != nil {
					return err
				}
				sent.Add(1)
			}
			return nil
		})
		stream := open(t.Context(), t, front, bidi)
		t.Logf("stalled after %d messages", stalls(t, &sent, limit))
		answers, err := receiveAll(stream.RecvMsg)
		if err != nil || len(answers) != total {
			t.Errorf("got %d of %d messages, %v", len(answers), total, err)
		}
	})

	t.Run("backend reads slowly", func(t *testing.T) {
		t.Parallel()
		b := startBackend(t)
		_, front := startFront(t, b, nil)
		release := make(chan struct{})
		received := make(chan int, 1)
		b.on(bidi, func(stream grpc.ServerStream) error {
			select {
			case <-release:
			case <-stream.Context().Done():
			}
			requests, err := receiveAll(stream.RecvMsg)
			received <- len(requests)
			return err
		})
		var sent atomic.Int64
		stream := open(t.Context(), t, front, bidi)
		done := make(chan error, 1)
		go func() { // received below
			for range total {
				if err := stream.SendMsg(message); err != nil {
					done <- err
					return
				}
				sent.Add(1)
			}
			done <- stream.CloseSend()
		}()
		t.Logf("stalled after %d messages", stalls(t, &sent, limit))
		close(release)
		if err := receive(t, done, "the sender"); err != nil {
			t.Error(err)
		}
		if _, err := receiveAll(stream.RecvMsg); err != nil {
			t.Error(err)
		}
		if n := receive(t, received, "the backend"); n != total {
			t.Errorf("%d of %d messages arrived", n, total)
		}
	})

	// One stuck call must not hold up others on the same connection.
	t.Run("other calls go on", func(t *testing.T) {
		t.Parallel()
		b := startBackend(t)
		_, front := startFront(t, b, nil)
		var sent atomic.Int64
		b.on(bidi, func(stream grpc.ServerStream) error {
			for {
				if err := stream.SendMsg(message); err != nil {
					return err
				}
				sent.Add(1)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		open(ctx, t, front, bidi)
		stalls(t, &sent, limit)
		if _, err := call(t.Context(), front, "/x.Y/Z", pattern(8<<20)); err != nil {
			t.Error(err)
		}
	})
}

func TestCallerCancelReachesBackend(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(cancel func(), conn *grpc.ClientConn){
		"cancel":           func(cancel func(), _ *grpc.ClientConn) { cancel() },
		"connection close": func(_ func(), conn *grpc.ClientConn) { _ = conn.Close() },
	} {
		for _, method := range []string{bidi, runtime.ImageService_PullImage_FullMethodName} {
			t.Run(name+method, func(t *testing.T) {
				t.Parallel()
				b := startBackend(t)
				_, front := startFront(t, b, &fakePreparer{})
				a, began, ended := hang()
				b.on(method, a)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stream := open(ctx, t, front, method)
				if err := stream.SendMsg([]byte{}); err != nil {
					t.Fatal(err)
				}
				receive(t, began, "the call to arrive")
				left := time.Now()
				leave(cancel, front)
				if err := receive(t, ended, "the backend's call to end"); !errors.Is(err, context.Canceled) {
					t.Errorf("backend saw %v", err)
				}
				if took := time.Since(left); took > time.Second {
					t.Errorf("took %v", took)
				}
			})
		}
	}
}

func TestDeadlineEndsBothSides(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	a, _, ended := hang()
	b.on(bidi, a)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := call(ctx, front, bidi, []byte{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("caller got %v", err)
	}
	if err := receive(t, ended, "the backend's call to end"); err == nil {
		t.Error("backend saw no end")
	}
}

func TestBackendFailureReachesCaller(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	a, began, _ := hang()
	b.on(bidi, a)
	stream := open(t.Context(), t, front, bidi)
	receive(t, began, "the call to arrive")
	b.stop()
	failed := time.Now()
	if _, err := receiveAll(stream.RecvMsg); status.Code(err) == codes.OK {
		t.Error("the call succeeded")
	}
	if took := time.Since(failed); took > time.Second {
		t.Errorf("took %v", took)
	}
}
