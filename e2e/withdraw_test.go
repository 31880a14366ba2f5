package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// TestWithdrawn pulls an image that nothing was planned for and whose chain is
// poisoned, while its own layers do not come to us: containerd is done before anybody
// can know. Whether the pull is refused, given up or cut off by the daemon's
// death, the kubelet must not find the image afterwards.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, `disabled = ["127.0.0.1:*/victim"]`)
	image := s.stack(t, "victim")
	victim, _ := s.push(t, "victim", "app", image)
	attacker := s.pushPoisoned(t, image)
	s.pull(t, attacker, fallback.Lazy)
	layer := image.manifest.Layers[1].Digest
	asked := func(r *http.Request) bool { return r.URL.Path == "/v2/victim/blobs/"+layer.String() && refereeAsks(r) }
	absent := func(t *testing.T) {
		t.Helper()
		if here, err := s.lazy.ImageStatus(t.Context(), victim); err != nil || here != nil {
			t.Errorf("the image is here: %v, %v", here, err)
		}
	}

	t.Run("refused", func(t *testing.T) {
		defer s.registry.Inject(regtest.Fault{Match: asked, Status: http.StatusNotFound})()
		if _, err := s.lazy.Pull(t.Context(), victim, nil); status.Code(errors.Unwrap(err)) != codes.Unavailable {
			t.Errorf("pull: %v, want %s", err, codes.Unavailable)
		}
		absent(t)
	})
	t.Run("given up", func(t *testing.T) {
		defer s.registry.Inject(regtest.Fault{Match: asked, Hang: true})()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.lazy.Pull(ctx, victim, nil); status.Code(errors.Unwrap(err)) != codes.DeadlineExceeded {
			t.Errorf("pull: %v, want %s", err, codes.DeadlineExceeded)
		}
		// The caller's call ended before the daemon's part of it.
		for deadline := time.Now().Add(10 * time.Second); ; {
			here, err := s.lazy.ImageStatus(t.Context(), victim)
			if err == nil && here == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the image stays: %v, %v", here, err)
			}
			select {
			case <-t.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	t.Run("killed", func(t *testing.T) {
		s.killMeanwhile(t, victim, layer, 0)
		here, err := s.Node.CRI().ImageStatus(t.Context(), victim)
		if err != nil || here == nil {
			t.Errorf("containerd was not done: %v, %v", here, err)
		}
		s.begin(t)
		absent(t)
	})
	s.pull(t, victim, fallback.Ordinary)
	s.expectHonest(t, victim, "victim")
	s.expectClean(t, attacker, victim)
}
