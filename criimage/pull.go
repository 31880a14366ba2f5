package criimage

import (
	"context"
	"errors"
	"io"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxParsed is the largest request worth parsing: containerd refuses larger
// ones (16 MiB, its defaults.DefaultMaxRecvMsgSize).
const maxParsed = 16 << 20

// Preparer makes images ready before their pull is forwarded. A panic in any
// of its functions is logged and the call goes on as if it had done nothing.
type Preparer interface {
	// Prepare returns when the pull may be forwarded, and bounds its own time. An
	// error, which should be a gRPC status, is what the callers get instead: only
	// for a pull that would be unsafe to forward.
	//
	// confirm, which may be nil, is called after each caller's forwarded pull has
	// succeeded, by several of them at once; its error, if any, is what that
	// caller gets instead of the success.
	//
	// settle, which may be nil, is called once, after the forwarded pull of every
	// caller that shared this preparation has ended; err is nil if at least one
	// succeeded. settle bounds its own time as well: the next pull of the same
	// image waits for it.
	//
	// request is a parsed copy, with the first caller's credentials. ctx has no
	// deadline; it ends when the last caller has gone away, or, after settle.
	Prepare(ctx context.Context, request *runtime.PullImageRequest) (confirm func(context.Context) error, settle func(err error), err error)
	// ImageRemoved is called after a RemoveImage was forwarded and answered
	// without error. image is the request's image string: a reference or an ID.
	// It must not block.
	ImageRemoved(image string)
}

// pull is pullImage, traced.
func (s *Server) pull(caller grpc.ServerStream) error {
	caller, end := s.begin(caller, "PullImage")
	err := s.pullImage(caller)
	end(err)
	return err
}

// forwardPull is relay, traced.
func (s *Server) forwardPull(caller grpc.ServerStream, original *frame) error {
	caller, end := s.beginForward(caller)
	err := s.relay(caller, runtime.ImageService_PullImage_FullMethodName, original)
	end(err)
	return err
}

// pullImage prepares, then forwards the original bytes.
//
// Callers share a preparation whatever their credentials. That gives nobody an
// image: each one's own pull is still authorised by containerd.
func (s *Server) pullImage(caller grpc.ServerStream) error {
	s.pulls.enter()
	defer s.pulls.leave()
	original, err := firstFrame(caller)
	if err != nil {
		return err
	}
	request := new(runtime.PullImageRequest)
	if !s.parse(original, request) {
		return s.forwardPull(caller, original)
	}
	shared, err := s.shared.join(caller.Context(), request)
	if err != nil {
		original.Free()
		return err
	}
	if err = shared.wait(caller.Context()); err == nil {
		err = s.forwardPull(caller, original)
		if err == nil {
			// The answer is on its way, but counts for nothing until the status follows.
			err = s.shared.confirm(caller.Context(), shared)
		}
	} else {
		original.Free()
	}
	s.shared.leave(shared, err)
	return err
}

// removeImage forwards, then tells the Preparer.
func (s *Server) removeImage(caller grpc.ServerStream) error {
	original, err := firstFrame(caller)
	if err != nil {
		return err
	}
	request := new(runtime.RemoveImageRequest)
	parsed := s.parse(original, request)
	if err := s.relay(caller, runtime.ImageService_RemoveImage_FullMethodName, original); err != nil {
		return err
	}
	if parsed {
		defer s.recovered("image removed", request.GetImage().GetImage())
		s.preparer.ImageRemoved(request.GetImage().GetImage())
	}
	return nil
}

// firstFrame receives the caller's first message. It is nil, without an error,
// where the caller half-closes without having sent one.
func firstFrame(caller grpc.ServerStream) (*frame, error) {
	first := new(frame)
	err := caller.RecvMsg(first)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return first, nil
}

// parse decodes a copy of f. False means: forward without looking.
func (s *Server) parse(f *frame, into proto.Message) bool {
	if f == nil || f.data.Len() > maxParsed {
		return false
	}
	if err := proto.Unmarshal(f.data.Materialize(), into); err != nil {
		// Not the error's text: it may quote a part of the message.
		s.log.Warn("forwarding a request that cannot be parsed",
			zap.String("message", string(into.ProtoReflect().Descriptor().FullName())), zap.Int("bytes", f.data.Len()))
		return false
	}
	return true
}

// recovered ends a panic of the Preparer. Use it with defer.
func (s *Server) recovered(doing, image string) { logPanic(s.log, recover(), doing, image) }

// logPanic logs a recovered panic, if there was one.
func logPanic(log *zap.Logger, panicked any, doing, image string) {
	if panicked == nil {
		return
	}
	log.Error("recovered from a panic of the preparer",
		zap.String("doing", doing), zap.String("ref", image), zap.Any("panic", panicked), zap.Stack("stack"))
}

// gone is the status of a call whose caller went away before it was forwarded.
func gone(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }
