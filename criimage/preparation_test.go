package criimage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/eventually"
)

// gate is a preparer whose every step waits for the test.
type gate struct {
	fakePreparer
	began   chan context.Context // Prepare was entered
	release chan struct{}        // closed: Prepare may return
	settled chan error           // settle was called
	ignore  bool                 // Prepare does not look at its context
}

func newGate() *gate {
	g := &gate{began: make(chan context.Context, 64), release: make(chan struct{}), settled: make(chan error, 64)}
	g.prepare = func(ctx context.Context, _ *runtime.PullImageRequest) func(error) {
		g.began <- ctx
		done := ctx.Done()
		if g.ignore {
			done = nil
		}
		select {
		case <-g.release:
		case <-done:
		}
		return func(err error) { g.settled <- err }
	}
	return g
}

// pull starts a PullImage and returns how it ends.
func pull(ctx context.Context, t *testing.T, conn *grpc.ClientConn, request *runtime.PullImageRequest) chan error {
	t.Helper()
	encoded := pullOf(t, request)
	done := make(chan error, 1)
	go func() { // the test receives
		_, err := call(ctx, conn, pullMethod, encoded)
		done <- err
	}()
	return done
}

// joined waits until n callers share the preparation of request.
func joined(t *testing.T, s *Server, request *runtime.PullImageRequest, n int) {
	t.Helper()
	eventually.True(t, fmt.Sprintf("%d callers share", n), func() bool {
		s.shared.mu.Lock()
		defer s.shared.mu.Unlock()
		running := s.shared.running[keyOf(request)]
		return running != nil && running.callers == n
	})
}

// unused waits until no preparation is left.
func unused(t *testing.T, s *Server) {
	t.Helper()
	eventually.True(t, "no preparation is left", func() bool {
		s.shared.mu.Lock()
		defer s.shared.mu.Unlock()
		return len(s.shared.running) == 0
	})
}

func TestPullsOfOneImageShareAPreparation(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	const callers = 20
	var forwarded atomic.Int32
	answerNow := make(chan struct{}, callers)
	b.on(pullMethod, func(stream grpc.ServerStream) error {
		if _, err := receiveAll(stream.RecvMsg); err != nil {
			return err
		}
		forwarded.Add(1)
		<-answerNow
		return stream.SendMsg([]byte{})
	})
	g := newGate()
	s, front := startFront(t, b, g)

	var done []chan error
	for i := range callers {
		request := image("registry.example/redis:7")
		request.Image.UserSpecifiedImage = fmt.Sprint("redis", i)                       // does not choose anything
		request.Auth = &runtime.AuthConfig{Username: fmt.Sprint(i), Password: "secret"} // containerd checks each
		done = append(done, pull(t.Context(), t, front, request))
	}
	joined(t, s, image("registry.example/redis:7"), callers)
	if n := forwarded.Load(); n != 0 {
		t.Errorf("%d pulls were forwarded unprepared", n)
	}
	close(g.release)
	eventually.True(t, "all are forwarded", func() bool { return forwarded.Load() == callers })

	// A late one shares what is prepared already.
	done = append(done, pull(t.Context(), t, front, image("registry.example/redis:7")))
	eventually.True(t, "the late one is forwarded", func() bool { return forwarded.Load() == callers+1 })
	for range callers {
		answerNow <- struct{}{}
	}
	eventually.True(t, "all but one are answered", func() bool {
		ended := 0
		for _, d := range done {
			ended += len(d)
		}
		return ended == callers
	})
	if len(g.settled) != 0 {
		t.Error("settled before the last pull had ended")
	}
	answerNow <- struct{}{}
	if err := receive(t, g.settled, "settle"); err != nil {
		t.Errorf("settled with %v", err)
	}
	for _, d := range done {
		if err := receive(t, d, "a pull"); err != nil {
			t.Error(err)
		}
	}
	unused(t, s)
	if n, settled := g.count(), len(g.settled); n != 1 || settled != 0 {
		t.Errorf("prepared %d times, settled %d times more", n, settled)
	}

	// What has ended is not shared.
	answerNow <- struct{}{}
	if err := receive(t, pull(t.Context(), t, front, image("registry.example/redis:7")), "a pull"); err != nil {
		t.Error(err)
	}
	if n := g.count(); n != 2 {
		t.Errorf("prepared %d times in all, want 2", n)
	}
}

func TestPreparationsAreSharedOnlyForTheSameSnapshot(t *testing.T) {
	t.Parallel()
	with := func(change func(*runtime.PullImageRequest)) *runtime.PullImageRequest {
		r := image("registry.example/redis:7")
		change(r)
		return r
	}
	sandbox := func(handler string) *runtime.PodSandboxConfig {
		return &runtime.PodSandboxConfig{Annotations: map[string]string{annotationRuntimeHandler: handler, "other": "x"}}
	}
	plain := image("registry.example/redis:7")
	for name, tc := range map[string]struct {
		a, b *runtime.PullImageRequest
		same bool
	}{
		"same":                  {plain, plain, true},
		"other credentials":     {plain, with(func(r *runtime.PullImageRequest) { r.Auth = &runtime.AuthConfig{Username: "u"} }), true},
		"other words of a user": {plain, with(func(r *runtime.PullImageRequest) { r.Image.UserSpecifiedImage = "redis" }), true},
		"other reference":       {plain, image("registry.example/redis:8"), false},
		"other runtime handler": {plain, with(func(r *runtime.PullImageRequest) { r.Image.RuntimeHandler = "kata" }), false},
		"other platform":        {plain, with(func(r *runtime.PullImageRequest) { r.Image.Annotations = map[string]string{"arch": "arm64"} }), false},
		"with a sandbox":        {plain, with(func(r *runtime.PullImageRequest) { r.SandboxConfig = sandbox("") }), false},
		"other pods, same handler": {
			with(func(r *runtime.PullImageRequest) { r.SandboxConfig = sandbox("kata"); r.SandboxConfig.Hostname = "a" }),
			with(func(r *runtime.PullImageRequest) { r.SandboxConfig = sandbox("kata"); r.SandboxConfig.Hostname = "b" }), true,
		},
		"other handler of the pod": {
			with(func(r *runtime.PullImageRequest) { r.SandboxConfig = sandbox("kata") }),
			with(func(r *runtime.PullImageRequest) { r.SandboxConfig = sandbox("runc") }), false,
		},
		"no image": {&runtime.PullImageRequest{}, &runtime.PullImageRequest{}, true},
	} {
		if same := keyOf(tc.a) == keyOf(tc.b); same != tc.same {
			t.Errorf("%s: shared %v, want %v", name, same, tc.same)
		}
	}
	secret := with(func(r *runtime.PullImageRequest) { r.Auth = &runtime.AuthConfig{Password: "hunter2"} })
	if strings.Contains(keyOf(secret), "hunter2") {
		t.Error("the key holds credentials")
	}
}

func TestCallerThatLeavesDoesNotDisturbTheOthers(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	received := recordPulls(b)
	g := newGate()
	s, front := startFront(t, b, g)
	request := image("a")

	first, cancel := context.WithCancel(t.Context())
	defer cancel()
	leaves := pull(first, t, front, request)
	ctx := receive(t, g.began, "prepare")
	stays := pull(t.Context(), t, front, request)
	joined(t, s, request, 2)
	cancel() // the one that started it
	if err := receive(t, leaves, "the cancelled pull"); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	joined(t, s, request, 1)
	if ctx.Err() != nil {
		t.Error("the preparation was cancelled with a caller left")
	}
	close(g.release)
	if err := receive(t, stays, "the other pull"); err != nil {
		t.Error(err)
	}
	if err := receive(t, g.settled, "settle"); err != nil {
		t.Errorf("settled with %v although one succeeded", err)
	}
	if n := len(received); n != 1 {
		t.Errorf("%d pulls were forwarded, want 1", n)
	}
}

func TestLastCallerToLeaveCancelsThePreparation(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	received := recordPulls(b)
	g := newGate()
	s, front := startFront(t, b, g)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pulls := []chan error{pull(ctx, t, front, image("a")), pull(ctx, t, front, image("a"))}
	joined(t, s, image("a"), 2)
	prepare := receive(t, g.began, "prepare")
	cancel()
	receive(t, prepare.Done(), "prepare to be cancelled")
	for _, p := range pulls {
		if err := receive(t, p, "a pull"); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	}
	if err := receive(t, g.settled, "settle"); err == nil {
		t.Error("settled with success although nothing was pulled")
	}
	unused(t, s)
	if len(received) != 0 {
		t.Error("a cancelled pull was forwarded")
	}
}

func TestDeadlineWhilePreparing(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	g := newGate()
	_, front := startFront(t, b, g)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := receive(t, pull(ctx, t, front, image("a")), "the pull"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	if err := receive(t, g.settled, "settle"); err == nil {
		t.Error("settled with success")
	}
}

// A Prepare that does not return keeps nobody from leaving, and the next pull
// of the same image from starting a second one beside it.
func TestPreparationThatIgnoresItsContext(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	recordPulls(b)
	g := newGate()
	g.ignore = true
	s, front := startFront(t, b, g)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	leaves := pull(ctx, t, front, image("a"))
	receive(t, g.began, "prepare")
	cancel()
	if err := receive(t, leaves, "the cancelled pull"); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	joined(t, s, image("a"), 0)

	impatient, cancelImpatient := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancelImpatient()
	if err := receive(t, pull(impatient, t, front, image("a")), "the impatient pull"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	next := pull(t.Context(), t, front, image("a"))
	other := pull(t.Context(), t, front, image("b"))
	receive(t, g.began, "prepare of the other image")
	if n := g.count(); n != 2 {
		t.Errorf("prepared %d times, want one for each image", n)
	}
	close(g.release)
	for _, p := range []chan error{next, other} {
		if err := receive(t, p, "a pull"); err != nil {
			t.Error(err)
		}
	}
	if n := g.count(); n != 3 {
		t.Errorf("prepared %d times, want 3", n)
	}
}

func TestSettleLearnsHowThePullsEnded(t *testing.T) {
	t.Parallel()
	denied := status.Error(codes.PermissionDenied, "wrong password")
	for name, tc := range map[string]struct {
		answers []error
		want    codes.Code
	}{
		"one success":             {[]error{nil}, codes.OK},
		"one failure":             {[]error{denied}, codes.PermissionDenied},
		"success after a failure": {[]error{denied, nil}, codes.OK},
		"failure after a success": {[]error{nil, denied}, codes.OK},
		"failures of several":     {[]error{denied, denied}, codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			answers := make(chan error)
			b.on(pullMethod, func(stream grpc.ServerStream) error {
				if _, err := receiveAll(stream.RecvMsg); err != nil {
					return err
				}
				if err := <-answers; err != nil {
					return err
				}
				return stream.SendMsg([]byte{})
			})
			g := newGate()
			s, front := startFront(t, b, g)
			done := make(chan error, len(tc.answers))
			for range tc.answers {
				p := pull(t.Context(), t, front, image("a"))
				go func() { done <- <-p }() // received below
			}
			joined(t, s, image("a"), len(tc.answers))
			close(g.release)
			for _, a := range tc.answers { // one ends before the next is answered
				answers <- a
				if err := receive(t, done, "a pull"); status.Code(err) != status.Code(a) {
					t.Errorf("got %v, want %v", err, a)
				}
			}
			if err := receive(t, g.settled, "settle"); status.Code(err) != tc.want {
				t.Errorf("settled with %v, want %v", err, tc.want)
			}
		})
	}
}

func TestPanicOfThePreparerDoesNotFailThePull(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(context.Context, *runtime.PullImageRequest) func(error){
		"in prepare":      func(context.Context, *runtime.PullImageRequest) func(error) { panic("prepare") },
		"with an error":   func(context.Context, *runtime.PullImageRequest) func(error) { panic(errors.New("prepare")) },
		"nil dereference": func(_ context.Context, r *runtime.PullImageRequest) func(error) { r.Auth.Username = "u"; return nil },
		"in settle": func(context.Context, *runtime.PullImageRequest) func(error) {
			return func(error) { panic("settle") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			received := recordPulls(b)
			s, front := startFront(t, b, &fakePreparer{prepare: prepare})
			for range 2 { // and the key is free again afterwards
				if _, err := call(t.Context(), front, pullMethod, pullOf(t, image("a"))); err != nil {
					t.Fatal(err)
				}
				receive(t, received, "the pull")
			}
			unused(t, s)
		})
	}
}
