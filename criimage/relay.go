package criimage

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// anyStream fits every method: on the wire a unary call is a stream with one
// message each way.
var anyStream = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// relay forwards one call to containerd and returns containerd's status,
// message and details included, or nil for OK. first, if not nil, is a request
// message that was received already.
func (s *Server) relay(caller grpc.ServerStream, method string, first *frame) error {
	ctx, options := forward(caller.Context())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the backend's call where the caller's answer cannot be delivered

	backend, err := s.backend.NewStream(ctx, anyStream, method, options...)
	if err != nil {
		if first != nil {
			first.Free()
		}
		return s.notSent(err)
	}
	// The caller may keep its sending side open for ever, and nothing but our
	// returning unblocks its RecvMsg: so this one outlives us by a moment.
	s.work.Go(func() {
		if pumpRequests(caller, backend, first) != nil {
			cancel()
		}
	})
	return pumpAnswers(caller, backend)
}

// notSent explains a call that never left: gRPC reports only local causes when
// a stream is opened, so the status is ours to word.
func (s *Server) notSent(err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	return status.Errorf(codes.Unavailable, "no connection to containerd at %s: %s", s.socket, status.Convert(err).Message())
}

// pumpRequests sends first and then every message of the caller to the backend
// until the caller half-closes. An error means that the caller's side broke;
// that the backend's side did is for pumpAnswers to find out.
func pumpRequests(caller grpc.ServerStream, backend grpc.ClientStream, first *frame) error {
	if first != nil && backend.SendMsg(first) != nil {
		return nil
	}
	for {
		request := new(frame)
		err := caller.RecvMsg(request)
		if errors.Is(err, io.EOF) {
			return backend.CloseSend()
		}
		if err != nil {
			return err
		}
		if backend.SendMsg(request) != nil {
			return nil
		}
	}
}

// pumpAnswers sends the backend's header as soon as it is there, then every
// message, then sets the trailer and returns the backend's status.
func pumpAnswers(caller grpc.ServerStream, backend grpc.ClientStream) error {
	// No header at all means that the status is next, and that the caller shall
	// see none either.
	if header, err := backend.Header(); err == nil && header != nil {
		if err := caller.SendHeader(answerHeader(header)); err != nil {
			return err
		}
	}
	for {
		answer := new(frame)
		err := backend.RecvMsg(answer)
		if err != nil {
			caller.SetTrailer(answerHeader(backend.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := caller.SendMsg(answer); err != nil {
			return err
		}
	}
}
