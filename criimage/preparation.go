package criimage

import (
	"context"
	"sync"

	"go.uber.org/zap"
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
	settle := p.prepare(ctx, running.image, request)
	close(running.prepared)
	<-running.left
	p.settle(settle, running)

	p.mu.Lock()
	delete(p.running, running.key)
	p.mu.Unlock()
	close(running.settled)
}

func (p *preparations) prepare(ctx context.Context, image string, request *runtime.PullImageRequest) func(error) {
	defer func() { logPanic(p.log, recover(), "prepare", image) }()
	return p.preparer.Prepare(ctx, request)
}

func (p *preparations) settle(settle func(error), done *preparation) {
	if settle == nil {
		return
	}
	p.mu.Lock()
	err := done.err
	if done.succeeded {
		err = nil
	}
	p.mu.Unlock()
	defer func() { logPanic(p.log, recover(), "settle", done.image) }()
	settle(err)
}

// wait returns when the pull may be forwarded, or with the status of a caller
// that went away.
func (p *preparation) wait(ctx context.Context) error {
	select {
	case <-p.prepared:
		return nil
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
