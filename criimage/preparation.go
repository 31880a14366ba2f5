package criimage

import (
	"context"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// annotationRuntimeHandler is the sandbox annotation from which containerd
// before 2.5 takes the runtime handler, and with it the snapshotter, of a pull.
const annotationRuntimeHandler = "io.containerd.cri.runtime-handler"

// preparation is one run of Prepare, shared by all callers who ask for the same
// thing while it lasts: from the first one's arrival until the last one's
// forwarded pull has ended.
type preparation struct {
	key      string
	image    string
	cancel   context.CancelFunc
	prepared chan struct{} // closed: Prepare has returned
	left     chan struct{} // closed: the last caller has gone
	settled  chan struct{} // closed: settle has returned, the key is free

	// What Prepare returned; to be read once prepared is closed.
	confirm func(context.Context) error
	settle  func(error)
	refused error

	// Guarded by preparations.mu.
	callers   int
	succeeded bool
	err       error // of the caller that left last without success
}

// preparations are those under way, by key.
type preparations struct {
	preparer Preparer
	log      *zap.Logger
	work     *sync.WaitGroup // owns one goroutine per preparation

	mu      sync.Mutex
	running map[string]*preparation
}

// join makes the caller part of a preparation, a new one if there is none. One
// that everybody has left is not joined: its settle must end first, so that
// Prepare and settle never run side by side for one key. Who joins must leave.
func (p *preparations) join(ctx context.Context, request *runtime.PullImageRequest) (*preparation, error) {
	key := keyOf(request)
	for {
		joined, ending := p.tryJoin(ctx, key, request)
		if joined != nil {
			return joined, nil
		}
		select {
		case <-ending.settled:
		case <-ctx.Done():
			return nil, gone(ctx)
		}
	}
}

func (p *preparations) tryJoin(ctx context.Context, key string, request *runtime.PullImageRequest) (joined, ending *preparation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if running, ok := p.running[key]; ok {
		if running.callers == 0 {
			return nil, running
		}
		running.callers++
		return running, nil
	}
	// The context outlives its first caller, but keeps its values (tracing).
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	started := &preparation{
		key:      key,
		image:    request.GetImage().GetImage(),
		cancel:   cancel,
		prepared: make(chan struct{}),
		left:     make(chan struct{}),
		settled:  make(chan struct{}),
		callers:  1,
	}
	p.running[key] = started
	p.work.Go(func() { p.run(ctx, started, request) })
	return started, nil
}

// leave ends the caller's part. err is how its forwarded pull ended, or why it
// was not forwarded. The last one to leave cancels a Prepare still running.
func (p *preparations) leave(left *preparation, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		left.succeeded = true
	} else {
		left.err = err
	}
	left.callers--
	if left.callers == 0 {
		left.cancel()
		close(left.left)
	}
}

// run is the life of one preparation.
func (p *preparations) run(ctx context.Context, running *preparation, request *runtime.PullImageRequest) {
	p.prepare(ctx, running, request)
	close(running.prepared)
	<-running.left
	p.settle(running)

	p.mu.Lock()
	delete(p.running, running.key)
	p.mu.Unlock()
	close(running.settled)
}

func (p *preparations) prepare(ctx context.Context, running *preparation, request *runtime.PullImageRequest) {
	defer func() { logPanic(p.log, recover(), "prepare", running.image) }()
	running.confirm, running.settle, running.refused = p.preparer.Prepare(ctx, request)
}

// confirm has the Preparer look at a pull that succeeded. A panic there must
// not pass for consent: what it was to find out is whether the image is safe.
func (p *preparations) confirm(ctx context.Context, done *preparation) (err error) {
	if done.confirm == nil {
		return nil
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			logPanic(p.log, panicked, "confirm", done.image)
			err = status.Error(codes.Internal, "the pulled image could not be confirmed")
		}
	}()
	return done.confirm(ctx)
}

func (p *preparations) settle(done *preparation) {
	if done.settle == nil {
		return
	}
	p.mu.Lock()
	err := done.err
	if done.succeeded {
		err = nil
	}
	p.mu.Unlock()
	defer func() { logPanic(p.log, recover(), "settle", done.image) }()
	done.settle(err)
}

// wait returns when the pull may be forwarded, or with the status that its
// caller is to get: because of a refusal, or because it went away.
func (p *preparation) wait(ctx context.Context) error {
	select {
	case <-p.prepared:
		return p.refused
	case <-ctx.Done():
		return gone(ctx)
	}
}

// keyOf names what a preparation depends on: all that chooses the manifest or
// the snapshotter, and no credentials.
func keyOf(request *runtime.PullImageRequest) string {
	image := request.GetImage()
	relevant := &runtime.PullImageRequest{Image: &runtime.ImageSpec{
		Image:          image.GetImage(),
		Annotations:    image.GetAnnotations(), // choose among the platforms of an index
		RuntimeHandler: image.GetRuntimeHandler(),
	}}
	if sandbox := request.GetSandboxConfig(); sandbox != nil { // without one the handler is ignored
		relevant.SandboxConfig = &runtime.PodSandboxConfig{Annotations: map[string]string{
			annotationRuntimeHandler: sandbox.GetAnnotations()[annotationRuntimeHandler],
		}}
	}
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(relevant)
	if err != nil { // text that is not UTF-8 does not get through the parser either
		return image.GetImage()
	}
	return string(key)
}
