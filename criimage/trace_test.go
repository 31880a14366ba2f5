package criimage

import (
	"context"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/tracing"
)

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	traceparent  = "00-" + callersTrace + "-b7ad6b7169203331-01"
)

// spanning is a Preparer that makes a span.
type spanning struct{}

func (spanning) Prepare(ctx context.Context, _ *runtime.PullImageRequest) (func(context.Context) error, func(error), error) {
	_, span := tracing.Start(ctx, "prepare")
	span.End(nil)
	return nil, nil, nil
}

func (spanning) ImageRemoved(string) {}

func pullMessage(t *testing.T) []byte {
	t.Helper()
	message, err := proto.Marshal(&runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "r.example/a:1"}})
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// A pull is one trace from the caller to containerd, and nothing but its
// traceparent is touched.
func TestPullsAreTraced(t *testing.T) {
	t.Parallel()
	recorded := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorded))
	b := startBackend(t)
	_, conn := startFrontWith(t, Options{Backend: b.path, Preparer: spanning{}, Tracer: provider.Tracer("test")})
	sent := metadata.MD{"traceparent": {traceparent}, "tracestate": {"vendor=1"}, "baggage": {"a=b"}, "x-other": {"1", "2"}}
	pull := conversation{method: runtime.ImageService_PullImage_FullMethodName, metadata: sent, requests: [][]byte{pullMessage(t)}, answers: [][]byte{{}}}
	seen := pull.hold(t, b, conn)

	spans := make(map[string]sdktrace.ReadOnlySpan)
	for _, span := range recorded.Ended() {
		spans[span.Name()] = span
	}
	for name, parent := range map[string]string{"prepare": "PullImage", "forward": "PullImage"} {
		if spans[name] == nil || spans[parent] == nil || spans[name].Parent().SpanID() != spans[parent].SpanContext().SpanID() {
			t.Fatalf("span %s is not below %s: %v", name, parent, spans)
		}
	}
	if root := spans["PullImage"].Parent(); root.TraceID().String() != callersTrace || root.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("the pull is below %v, want the caller's span", root)
	}
	want := maps.Clone(sent)
	want["traceparent"] = []string{"00-" + callersTrace + "-" + spans["forward"].SpanContext().SpanID().String() + "-01"}
	got := metadata.MD{}
	for key := range sent {
		got[key] = seen.Asked[key]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("containerd sees (-want +got):\n%s", diff)
	}

	status := conversation{method: "/runtime.v1.ImageService/ImageStatus", metadata: sent, requests: [][]byte{{}}, answers: [][]byte{{}}}
	if other := status.hold(t, b, conn); other.Asked.Get("traceparent")[0] != traceparent {
		t.Error("a call that is only forwarded got another parent")
	}
}

func TestUntracedPullsKeepTheirParent(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, conn := startFront(t, b, spanning{})
	pull := conversation{
		method: runtime.ImageService_PullImage_FullMethodName, requests: [][]byte{pullMessage(t)}, answers: [][]byte{{}},
		metadata: metadata.MD{"traceparent": {"not even", "one"}},
	}
	seen := pull.hold(t, b, conn)
	if diff := cmp.Diff([]string{"not even", "one"}, seen.Asked["traceparent"]); diff != "" {
		t.Error(diff)
	}
}
