package criimage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shortCallGrace is how long Shutdown waits, after the last pull, for calls
// that are not pulls. Streams of events never end by themselves.
const shortCallGrace = time.Second

// Options say how to make a Server.
type Options struct {
	Backend  string      // path of containerd's socket
	Preparer Preparer    // nil: every call just passes
	Log      *zap.Logger // nil: silent

	// Tracer makes spans of pulls, below the caller's, and containerd's are below
	// ours: the pull's traceparent is replaced. nil: none, and it passes as it came.
	Tracer trace.Tracer

	// Observe is told of every call that has ended, by many goroutines at once. It
	// must not block. nil: nobody is told.
	Observe func(Call)
}

// Call is one call that has ended.
type Call struct {
	Method string // "/runtime.v1.ImageService/PullImage"; whatever the caller sent
	Ours   bool   // more was done than to forward it
	Took   time.Duration
	Err    error // the status that the caller got
}

// Server is the CRI front. All methods are safe for concurrent use.
type Server struct {
	socket   string
	backend  *grpc.ClientConn
	grpc     *grpc.Server
	preparer Preparer
	log      *zap.Logger
	observe  func(Call)
	tracer   trace.Tracer

	shared preparations
	pulls  counter
	work   sync.WaitGroup // request pumps and preparations
}

// New connects to containerd in the background; containerd need not be there.
func New(options Options) (*Server, error) {
	if options.Backend == "" {
		return nil, errors.New("make cri server: no backend socket given")
	}
	backend, err := Dial(options.Backend)
	if err != nil {
		return nil, fmt.Errorf("make cri server: %w", err)
	}
	s := &Server{
		socket:   options.Backend,
		backend:  backend,
		preparer: options.Preparer,
		log:      options.Log,
		observe:  options.Observe,
		tracer:   options.Tracer,
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	s.shared = preparations{preparer: s.preparer, log: s.log, work: &s.work, running: map[string]*preparation{}}
	s.grpc = grpc.NewServer(
		grpc.UnknownServiceHandler(s.handle),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WaitForHandlers(true),
		// Never be stricter about pings than containerd behind us might be.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	return s, nil
}

// Serve answers calls on l until Shutdown, then returns nil. It may be called
// for several listeners. l is closed when it returns.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve cri on %s: %w", l.Addr(), err)
	}
	return nil
}

// PullsInFlight is how many pulls are under way.
func (s *Server) PullsInFlight() int { return s.pulls.count() }

// Backend is the connection to containerd, for typed calls by others. It is
// closed by Shutdown; who needs one for longer uses Dial.
func (s *Server) Backend() *grpc.ClientConn { return s.backend }

// Shutdown stops accepting calls, lets pulls in flight finish until ctx ends,
// and other calls for a second more. What is left is cancelled and waited for:
// the Preparer is not called after Shutdown has returned. The error is ctx's
// if a pull had to be cancelled. Call it once.
func (s *Server) Shutdown(ctx context.Context) error {
	graceful := make(chan struct{})
	go func() { // ends with Stop below at the latest
		s.grpc.GracefulStop()
		close(graceful)
	}()
	err := s.drain(ctx, graceful)
	s.grpc.Stop()
	<-graceful
	s.work.Wait()
	return errors.Join(err, s.backend.Close())
}

// drain waits until no call is left, or only calls that have had their time.
func (s *Server) drain(ctx context.Context, graceful <-chan struct{}) error {
	idle := s.pulls.idle()
	select {
	case <-graceful:
		return nil
	case <-idle:
	case <-ctx.Done():
		select {
		case <-idle:
		default:
			return fmt.Errorf("finish pulls in flight: %w", context.Cause(ctx))
		}
	}
	grace := time.NewTimer(shortCallGrace)
	defer grace.Stop()
	select {
	case <-graceful:
	case <-grace.C:
	case <-ctx.Done():
	}
	return nil
}

// handle receives every call there is.
func (s *Server) handle(_ any, caller grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(caller)
	if !ok {
		return status.Error(codes.Internal, "call without a method name")
	}
	if s.observe == nil {
		_, err := s.answer(method, caller)
		return err
	}
	begin := time.Now()
	ours, err := s.answer(method, caller)
	s.observe(Call{Method: method, Ours: ours, Took: time.Since(begin), Err: err})
	return err
}

// answer forwards a call and does what else belongs to it; ours: that was something.
func (s *Server) answer(method string, caller grpc.ServerStream) (ours bool, err error) {
	if s.preparer != nil {
		switch method {
		case runtime.ImageService_PullImage_FullMethodName:
			return true, s.pull(caller)
		case runtime.ImageService_RemoveImage_FullMethodName:
			return true, s.removeImage(caller)
		}
	}
	return false, s.relay(caller, method, nil)
}
