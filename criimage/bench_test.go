package criimage

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageService answers like a node with 200 images, decoding and encoding as
// containerd does.
type imageService struct {
	runtime.UnimplementedImageServiceServer
	images []*runtime.Image
}

func newImageService() *imageService {
	s := &imageService{}
	for i := range 200 {
		digest := fmt.Sprintf("sha256:%064x", i)
		s.images = append(s.images, &runtime.Image{
			Id:          digest,
			RepoTags:    []string{fmt.Sprintf("registry.example/team/application-%d:v1.2.%d", i, i)},
			RepoDigests: []string{"registry.example/team/application@" + digest},
			Size:        uint64(i) << 20,
			Username:    strings.Repeat("u", i%8),
		})
	}
	return s
}

func (s *imageService) ListImages(context.Context, *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	return &runtime.ListImagesResponse{Images: s.images}, nil
}

func (s *imageService) ImageStatus(context.Context, *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	return &runtime.ImageStatusResponse{Image: s.images[7]}, nil
}

// BenchmarkImageStatus is what the front adds to the call the kubelet makes
// before every container start.
func BenchmarkImageStatus(b *testing.B) {
	request := &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: "registry.example/team/application-7:v1.2.7"}}
	compare(b, func(ctx context.Context, c runtime.ImageServiceClient) error {
		_, err := c.ImageStatus(ctx, request)
		return err
	})
}

// BenchmarkListImages200 is the same for a large answer (about 50 KB).
func BenchmarkListImages200(b *testing.B) {
	compare(b, func(ctx context.Context, c runtime.ImageServiceClient) error {
		_, err := c.ListImages(ctx, &runtime.ListImagesRequest{})
		return err
	})
}

// compare alternates direct and proxied calls in one loop, so that both see the
// same machine, and reports the medians' difference as added-ns/op.
func compare(b *testing.B, call func(context.Context, runtime.ImageServiceClient) error) {
	backend := newBackend(b)
	l, err := new(net.ListenConfig).Listen(b.Context(), "unix", backend.path)
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	runtime.RegisterImageServiceServer(server, newImageService())
	backend.serve(server, l)
	_, front := startFront(b, backend, nil)
	clients := map[string]runtime.ImageServiceClient{
		"direct":  runtime.NewImageServiceClient(dial(b, backend.path)),
		"proxied": runtime.NewImageServiceClient(front),
	}
	took := map[string][]time.Duration{}
	ctx := b.Context()
	for b.Loop() {
		for way, client := range clients {
			began := time.Now()
			if err := call(ctx, client); err != nil {
				b.Fatal(err)
			}
			took[way] = append(took[way], time.Since(began))
		}
	}
	direct, proxied := quantile(took["direct"], 0.5), quantile(took["proxied"], 0.5)
	b.ReportMetric(float64(direct), "direct-p50-ns")
	b.ReportMetric(float64(proxied), "proxied-p50-ns")
	b.ReportMetric(float64(proxied-direct), "added-ns/op")
	b.ReportMetric(float64(quantile(took["proxied"], 0.99)-quantile(took["direct"], 0.99)), "added-p99-ns")
}

// quantile returns the q-quantile of durations, which it sorts.
func quantile(durations []time.Duration, q float64) time.Duration {
	slices.Sort(durations)
	return durations[int(float64(len(durations)-1)*q)]
}
