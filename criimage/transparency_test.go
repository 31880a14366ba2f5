package criimage

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// observed is everything either end of a call can see of it.
type observed struct {
	Asked    metadata.MD // as the backend saw it
	Requests [][]byte
	Header   metadata.MD // as the caller saw it
	Answers  [][]byte
	Trailer  metadata.MD
	Status   *spb.Status
}

// conversation is one call: what the caller sends, and what the backend does.
type conversation struct {
	method   string
	metadata metadata.MD
	options  []grpc.CallOption
	requests [][]byte
	answers  [][]byte
	header   metadata.MD
	trailer  metadata.MD
	status   error
}

// hold runs c over conn and returns what both ends saw.
func (c conversation) hold(t *testing.T, b *fakeBackend, conn *grpc.ClientConn) observed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := make(chan observed, 1)
	b.on(c.method, func(stream grpc.ServerStream) error {
		var o observed
		o.Asked, _ = metadata.FromIncomingContext(stream.Context())
		var err error
		if o.Requests, err = receiveAll(stream.RecvMsg); err != nil {
			return err
		}
		seen <- o
		if c.header != nil {
			if err := stream.SendHeader(c.header); err != nil {
				return err
			}
		}
		for _, m := range c.answers {
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
		stream.SetTrailer(c.trailer)
		return c.status
	})
	stream := open(metadata.NewOutgoingContext(ctx, c.metadata), t, conn, c.method, c.options...)
	for _, m := range c.requests {
		if err := stream.SendMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	header, err := stream.Header()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := receiveAll(stream.RecvMsg)
	o := receive(t, seen, fmt.Sprintf("the backend to see the call, which ended with %v", err))
	o.Header, o.Answers, o.Trailer, o.Status = header, answers, stream.Trailer(), status.Convert(err).Proto()
	return o
}

// A call must look the same from both ends whether the front is between them or
// not.
func TestCallsLookTheSameAsDirect(t *testing.T) {
	t.Parallel()
	detailed, err := status.New(codes.NotFound, "ünknown \"image\"\n100%").WithDetails(
		&errdetails.ErrorInfo{Reason: "NOT_FOUND", Domain: "registry.example", Metadata: map[string]string{"a": "b"}},
		&errdetails.RetryInfo{},
	)
	if err != nil {
		t.Fatal(err)
	}
	binary := string([]byte{0, 1, 0xff, '\n', 0xfe})
	for name, c := range map[string]conversation{
		"one message each way": {requests: [][]byte{{1}}, answers: [][]byte{{2}}},
		"empty messages":       {requests: [][]byte{{}}, answers: [][]byte{{}}},
		"many messages each way": {
			requests: [][]byte{{1}, {}, {2, 3}, pattern(100_000)},
			answers:  [][]byte{{}, {9}, pattern(70_000), {}},
		},
		"no request message": {answers: [][]byte{{1}}},
		"no answer message":  {requests: [][]byte{{1}}},
		"no message at all":  {},
		"request metadata, with duplicates, binary and empty values": {
			metadata: metadata.MD{
				"traceparent":    {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
				"x-twice":        {"a", "b", "a"},
				"x-empty":        {""},
				"x-comma":        {"a,b"},
				"blob-bin":       {binary, "", "plain"},
				"grpc-trace-bin": {binary},
				"grpc-tags-bin":  {binary},
			},
			requests: [][]byte{{1}}, answers: [][]byte{{1}},
		},
		"another authority": {
			options:  []grpc.CallOption{grpc.CallAuthority("containerd.example:1234")},
			requests: [][]byte{{1}},
		},
		"content subtype": {
			options:  []grpc.CallOption{grpc.CallContentSubtype("proto")},
			requests: [][]byte{{1}}, answers: [][]byte{{1}},
		},
		"header and trailer on success": {
			requests: [][]byte{{1}}, answers: [][]byte{{1}},
			header:  metadata.MD{"x-h": {"1", "2"}, "h-bin": {binary}},
			trailer: metadata.MD{"x-t": {"1", "2", ""}, "t-bin": {binary, ""}},
		},
		"header and trailer on error after messages": {
			requests: [][]byte{{1}}, answers: [][]byte{{1}, {2}},
			header:  metadata.MD{"x-h": {"1"}},
			trailer: metadata.MD{"x-t": {"1"}, "t-bin": {binary}},
			status:  status.Error(codes.DataLoss, "lost"),
		},
		"header without messages": {requests: [][]byte{{1}}, header: metadata.MD{"x-h": {"1"}}},
		"empty header":            {requests: [][]byte{{1}}, header: metadata.MD{}, status: status.Error(codes.Aborted, "")},
		"trailers only": {
			requests: [][]byte{{1}},
			trailer:  metadata.MD{"x-t": {"1"}},
			status:   status.Error(codes.NotFound, "no such image"),
		},
		"status with details": {requests: [][]byte{{1}}, status: detailed.Err()},
		"status with a details trailer nobody can parse": {
			requests: [][]byte{{1}},
			trailer:  metadata.MD{"grpc-status-details-bin": {"\xff\xff"}},
			status:   status.Error(codes.Internal, "odd"),
		},
		"status code not invented yet": {requests: [][]byte{{1}}, status: status.Error(codes.Code(4711), "new")},
		"unavailable from containerd itself": {
			requests: [][]byte{{1}}, status: status.Error(codes.Unavailable, "registry is down"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			_, front := startFront(t, b, nil)
			c.method = "/runtime.v1.ImageService/ImageStatus"
			direct := c.hold(t, b, dial(t, b.path))
			proxied := c.hold(t, b, front)
			if diff := cmp.Diff(direct, proxied, protocmp.Transform()); diff != "" {
				t.Errorf("direct (-) and proxied (+) differ:\n%s", diff)
			}
			// The harness itself: nothing was lost on the direct way either.
			if diff := cmp.Diff(status.Convert(c.status).Proto(), direct.Status, protocmp.Transform()); diff != "" {
				t.Errorf("status: %s", diff)
			}
			if len(direct.Requests) != len(c.requests) || len(direct.Answers) != len(c.answers) {
				t.Errorf("%d requests and %d answers arrived, want %d and %d",
					len(direct.Requests), len(direct.Answers), len(c.requests), len(c.answers))
			}
		})
	}
}

// Every method that cri-api knows, whatever its kind, and some it does not.
func TestEveryMethodPasses(t *testing.T) {
	t.Parallel()
	type method struct {
		name            string
		manyIn, manyOut bool
	}
	methods := []method{
		{"/runtime.v1.ImageService/InventedTomorrow", false, false},
		{"/runtime.v2alpha1.ImageService/PullImage", false, false},
		{"/example.Other/Upload", true, false},
		{"/example.Other/Watch", false, true},
		{"/example.Other/Exec", true, true},
		{"/grpc.health.v1.Health/Check", false, false},
	}
	services := runtime.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			methods = append(methods, method{
				fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), m.IsStreamingClient(), m.IsStreamingServer(),
			})
		}
	}
	if len(methods) < 40 {
		t.Fatalf("only %d methods found", len(methods))
	}

	b := startBackend(t)
	_, front := startFront(t, b, &fakePreparer{})
	direct := dial(t, b.path)
	for _, m := range methods {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			c := conversation{
				method:   m.name,
				metadata: metadata.MD{"x-in": {m.name}},
				header:   metadata.MD{"x-header": {m.name}},
				trailer:  metadata.MD{"x-trailer": {m.name}},
				// A field from the future, valid for every message type.
				requests: [][]byte{protowire.AppendString(protowire.AppendTag(nil, 100_000, protowire.BytesType), m.name)},
				answers:  [][]byte{[]byte(m.name)},
			}
			if m.manyIn {
				c.requests = append(c.requests, []byte{1, 2}, []byte{3})
			}
			if m.manyOut {
				c.answers = append(c.answers, []byte{4}, []byte{5, 6})
			}
			want, got := c.hold(t, b, direct), c.hold(t, b, front)
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("direct (-) and proxied (+) differ:\n%s", diff)
			}
		})
	}
}

func TestTypedClientsSeeTypedAnswers(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	want := &runtime.ListImagesResponse{Images: newImageService().images}
	message, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	b.on(runtime.ImageService_ListImages_FullMethodName, reply(message))
	s, front := startFront(t, b, nil)
	for way, conn := range map[string]*grpc.ClientConn{"through the front": front, "by the shared connection": s.Backend()} {
		got, err := runtime.NewImageServiceClient(conn).ListImages(t.Context(), &runtime.ListImagesRequest{})
		if err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", way, diff)
		}
	}
}

// Message compression is each hop's own affair: undone on the way in, done
// again for a caller that compresses.
func TestCompressedMessagesAreUnderstood(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, nil)
	message := pattern(100_000)
	accepted := make(chan []string, 1)
	b.on("/x.Y/Z", func(stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		accepted <- md["grpc-accept-encoding"]
		if err := grpc.SetSendCompressor(stream.Context(), "gzip"); err != nil {
			return err
		}
		return echo(stream)
	})
	got, err := call(t.Context(), front, "/x.Y/Z", message, grpc.UseCompressor("gzip"))
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(got, message) {
		t.Errorf("got %d other bytes", len(got))
	}
	if got := receive(t, accepted, "the call"); !cmp.Equal(got, []string{"gzip"}) {
		t.Errorf("backend was offered %q, want what this hop understands, once", got)
	}
}

func TestDeadlinePasses(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	_, front := startFront(t, b, &fakePreparer{})
	for _, method := range []string{"/x.Y/Z", runtime.ImageService_PullImage_FullMethodName} {
		deadlines := make(chan time.Time, 1)
		b.on(method, func(stream grpc.ServerStream) error {
			deadline, _ := stream.Context().Deadline()
			deadlines <- deadline
			return echo(stream)
		})
		if _, err := call(t.Context(), front, method, []byte{}); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, deadlines, "the call"); !got.IsZero() {
			t.Errorf("%s: a deadline was invented: %v", method, got)
		}
		want := time.Now().Add(time.Hour)
		ctx, cancel := context.WithDeadline(t.Context(), want)
		defer cancel()
		if _, err := call(ctx, front, method, []byte{}); err != nil {
			t.Fatal(err)
		}
		if off := receive(t, deadlines, "the call").Sub(want); off.Abs() > 2*time.Second {
			t.Errorf("%s: deadline is off by %v", method, off)
		}
	}
}
