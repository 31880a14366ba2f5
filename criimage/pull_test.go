package criimage

import (
	"context"
	"sync"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakePreparer does what the test says and remembers what it was asked.
type fakePreparer struct {
	prepare func(ctx context.Context, request *runtime.PullImageRequest) func(error)
	removed func(image string)

	mu       sync.Mutex
	prepared []*runtime.PullImageRequest
}

var _ Preparer = (*fakePreparer)(nil)

func (p *fakePreparer) Prepare(ctx context.Context, request *runtime.PullImageRequest) func(error) {
	p.mu.Lock()
	p.prepared = append(p.prepared, request)
	p.mu.Unlock()
	if p.prepare == nil {
		return nil
	}
	return p.prepare(ctx, request)
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
