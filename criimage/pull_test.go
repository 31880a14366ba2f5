package criimage

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakePreparer does what the test says and remembers what it was asked.
type fakePreparer struct {
	prepare func(ctx context.Context, request *runtime.PullImageRequest) func(error)
	confirm func(context.Context) error
	refuse  error
	removed func(image string)

	mu       sync.Mutex
	prepared []*runtime.PullImageRequest
}

var _ Preparer = (*fakePreparer)(nil)

func (p *fakePreparer) Prepare(ctx context.Context, request *runtime.PullImageRequest) (confirm func(context.Context) error, settle func(error), err error) {
	p.mu.Lock()
	p.prepared = append(p.prepared, request)
	p.mu.Unlock()
	if p.prepare != nil {
		settle = p.prepare(ctx, request)
	}
	return p.confirm, settle, p.refuse
}

func (p *fakePreparer) ImageRemoved(image string) {
	if p.removed != nil {
		p.removed(image)
	}
}

// count is how often Prepare was called.
func (p *fakePreparer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.prepared)
}

const (
	pullMethod   = runtime.ImageService_PullImage_FullMethodName
	removeMethod = runtime.ImageService_RemoveImage_FullMethodName
)

// pullOf is an encoded request with a field from the future in it.
func pullOf(t testing.TB, request *runtime.PullImageRequest) []byte {
	t.Helper()
	encoded, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return protowire.AppendString(protowire.AppendTag(encoded, 100_000, protowire.BytesType), "from the future")
}

func image(reference string) *runtime.PullImageRequest {
	return &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: reference}}
}

// recordPulls makes b answer every PullImage and hand out what it received.
func recordPulls(b *fakeBackend) chan []byte {
	received := make(chan []byte, 64)
	b.on(pullMethod, func(stream grpc.ServerStream) error {
		requests, err := receiveAll(stream.RecvMsg)
		if err != nil {
			return err
		}
		received <- bytes.Join(requests, []byte("|"))
		return stream.SendMsg([]byte("answer"))
	})
	return received
}

func TestPullForwardsOriginalBytes(t *testing.T) {
	t.Parallel()
	whole := image("registry.example/redis:7")
	whole.Auth = &runtime.AuthConfig{Username: "u", Password: "p"}
	whole.SandboxConfig = &runtime.PodSandboxConfig{Labels: map[string]string{"a": "1", "b": "2", "c": "3"}}
	// Same message, fields in an order no encoder of ours would choose.
	swapped := slices.Concat(
		pullOf(t, &runtime.PullImageRequest{SandboxConfig: whole.SandboxConfig}), pullOf(t, image("registry.example/redis:7")))

	for name, tc := range map[string]struct {
		request  []byte
		prepared int
	}{
		"complete request":          {pullOf(t, whole), 1},
		"fields in unusual order":   {swapped, 1},
		"empty request":             {[]byte{}, 1},
		"not a protobuf message":    {[]byte{0xff, 0xff, 0xff}, 0},
		"text that is not UTF-8":    {[]byte{0x0a, 0x03, 0x0a, 0x01, 0xff}, 0},
		"truncated message":         {pullOf(t, whole)[:9], 0},
		"more than is worth a look": {pullOf(t, image(string(bytes.Repeat([]byte("a"), maxParsed)))), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			received := recordPulls(b)
			// A preparer that scribbles on its copy must not matter.
			preparer := &fakePreparer{prepare: func(_ context.Context, request *runtime.PullImageRequest) func(error) {
				proto.Reset(request)
				request.Image = &runtime.ImageSpec{Image: "scribbled"}
				return nil
			}}
			_, front := startFront(t, b, preparer)
			answer, err := call(t.Context(), front, pullMethod, tc.request)
			if err != nil || string(answer) != "answer" {
				t.Fatalf("answer %q, %v", answer, err)
			}
			if got := receive(t, received, "the pull"); !bytes.Equal(got, tc.request) {
				t.Errorf("backend received %d other bytes than the %d sent", len(got), len(tc.request))
			}
			if got := preparer.count(); got != tc.prepared {
				t.Errorf("prepared %d times, want %d", got, tc.prepared)
			}
		})
	}
}

// Calls that break the method's shape are containerd's to refuse.
func TestPullOfAnotherShapePasses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		requests [][]byte
		want     string
	}{
		"no message":   {nil, ""},
		"two messages": {[][]byte{pullOf(t, image("a")), []byte("second")}, string(pullOf(t, image("a"))) + "|second"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			received := recordPulls(b)
			_, front := startFront(t, b, &fakePreparer{})
			stream := open(t.Context(), t, front, pullMethod)
			for _, m := range tc.requests {
				if err := stream.SendMsg(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if answers, err := receiveAll(stream.RecvMsg); err != nil || len(answers) != 1 {
				t.Errorf("answers %q, %v", answers, err)
			}
			if got := receive(t, received, "the pull"); string(got) != tc.want {
				t.Errorf("backend received %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPreparerSeesTheRequest(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	recordPulls(b)
	seen := make(chan *runtime.PullImageRequest, 1)
	preparer := &fakePreparer{prepare: func(ctx context.Context, request *runtime.PullImageRequest) func(error) {
		if deadline, ok := ctx.Deadline(); ok {
			t.Errorf("ctx has a deadline: %v", deadline)
		}
		seen <- request
		return nil
	}}
	_, front := startFront(t, b, preparer)
	want := image("registry.example/redis:7")
	want.Auth = &runtime.AuthConfig{Username: "u", Password: "p"}
	if _, err := call(t.Context(), front, pullMethod, pullOf(t, want)); err != nil {
		t.Fatal(err)
	}
	got := receive(t, seen, "prepare")
	got.ProtoReflect().SetUnknown(nil)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestPullIsForwardedOnlyWhenPrepared(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	received := recordPulls(b)
	began, release := make(chan struct{}), make(chan struct{})
	_, front := startFront(t, b, &fakePreparer{prepare: func(context.Context, *runtime.PullImageRequest) func(error) {
		close(began)
		<-release
		return nil
	}})
	done := make(chan error, 1)
	go func() { // received below
		_, err := call(t.Context(), front, pullMethod, pullOf(t, image("a")))
		done <- err
	}()
	receive(t, began, "prepare")
	// Another call makes the way there and back meanwhile.
	if _, err := call(t.Context(), front, "/x.Y/Z", []byte{1}); err != nil {
		t.Fatal(err)
	}
	if len(received) != 0 {
		t.Error("forwarded before it was prepared")
	}
	close(release)
	if err := receive(t, done, "the pull"); err != nil {
		t.Error(err)
	}
}

func TestWithoutPreparerPullPasses(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	received := recordPulls(b)
	_, front := startFront(t, b, nil)
	want := pullOf(t, image("a"))
	if _, err := call(t.Context(), front, pullMethod, want); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, received, "the pull"); !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestRemoveImageIsTold(t *testing.T) {
	t.Parallel()
	request, err := proto.Marshal(&runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: "sha256:abc"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		request []byte
		answer  error
		panics  bool
		want    []string
	}{
		"after success":            {request, nil, false, []string{"sha256:abc"}},
		"not after an error":       {request, status.Error(codes.Internal, "busy"), false, nil},
		"not what it cannot parse": {[]byte{0xff}, nil, false, nil},
		"and may panic":            {request, nil, true, []string{"sha256:abc"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			b.on(removeMethod, func(stream grpc.ServerStream) error {
				requests, err := receiveAll(stream.RecvMsg)
				if err != nil {
					return err
				}
				if !cmp.Equal(requests, [][]byte{tc.request}) {
					return status.Errorf(codes.InvalidArgument, "got %q", requests)
				}
				if tc.answer != nil {
					return tc.answer
				}
				return stream.SendMsg([]byte{})
			})
			var told []string
			_, front := startFront(t, b, &fakePreparer{removed: func(image string) {
				told = append(told, image)
				if tc.panics {
					panic("removed")
				}
			}})
			_, err := call(t.Context(), front, removeMethod, tc.request)
			if status.Code(err) != status.Code(tc.answer) {
				t.Errorf("got %v, want %v", err, tc.answer)
			}
			// The hook ran before the call ended.
			if diff := cmp.Diff(tc.want, told); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever a caller sends as a PullImage, containerd receives the same.
func FuzzPullForwardsOriginalBytes(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xff})
	f.Add(pullOf(f, image("registry.example/redis:7")))
	f.Add([]byte{0x1a, 0x02, 0x2a, 0x00}) // a sandbox without annotations
	b := startBackend(f)
	received := recordPulls(b)
	_, front := startFront(f, b, &fakePreparer{})
	f.Fuzz(func(t *testing.T, request []byte) {
		if _, err := call(t.Context(), front, pullMethod, request); err != nil {
			t.Fatal(err)
		}
		if got := <-received; !bytes.Equal(got, request) {
			t.Errorf("sent %x, received %x", request, got)
		}
	})
}

// TestUnsafePulls: a refusal is not forwarded, and what is found out after the
// pull takes its success away.
func TestUnsafePulls(t *testing.T) {
	t.Parallel()
	unsafe := status.Error(codes.FailedPrecondition, "stands on nobody's word")
	for name, tc := range map[string]struct {
		refuse    error
		confirm   func(context.Context) error
		broken    bool // containerd fails the pull
		want      codes.Code
		forwarded int
		confirmed int32
		settled   codes.Code
	}{
		"refused":                   {refuse: unsafe, want: codes.FailedPrecondition, settled: codes.FailedPrecondition},
		"found unsafe afterwards":   {confirm: func(context.Context) error { return unsafe }, want: codes.FailedPrecondition, forwarded: 1, confirmed: 1, settled: codes.FailedPrecondition},
		"found safe":                {confirm: func(context.Context) error { return nil }, want: codes.OK, forwarded: 1, confirmed: 1, settled: codes.OK},
		"the look panics":           {confirm: func(context.Context) error { panic("defect") }, want: codes.Internal, forwarded: 1, confirmed: 1, settled: codes.Internal},
		"containerd fails it first": {confirm: func(context.Context) error { return unsafe }, broken: true, want: codes.NotFound, forwarded: 1, settled: codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			received := recordPulls(b)
			if tc.broken {
				b.on(pullMethod, func(stream grpc.ServerStream) error {
					received <- nil
					return status.Error(codes.NotFound, "gone")
				})
			}
			var confirmed atomic.Int32
			settled := make(chan error, 1)
			p := &fakePreparer{refuse: tc.refuse, prepare: func(context.Context, *runtime.PullImageRequest) func(error) {
				return func(err error) { settled <- err }
			}}
			if tc.confirm != nil {
				p.confirm = func(ctx context.Context) error { confirmed.Add(1); return tc.confirm(ctx) }
			}
			_, front := startFront(t, b, p)
			_, err := call(t.Context(), front, pullMethod, pullOf(t, image("a")))
			if status.Code(err) != tc.want {
				t.Errorf("caller got %v, want %s", err, tc.want)
			}
			if err := receive(t, settled, "settle"); status.Code(err) != tc.settled {
				t.Errorf("settled with %v, want %s", err, tc.settled)
			}
			if len(received) != tc.forwarded || confirmed.Load() != tc.confirmed {
				t.Errorf("forwarded %d times, confirmed %d times", len(received), confirmed.Load())
			}
		})
	}
}
