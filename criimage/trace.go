package criimage

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// traced is a call with a span of ours in its context.
type traced struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // what grpc.ServerStream.Context returns
}

func (t traced) Context() context.Context { return t.ctx }

// carrier lets W3C trace context (https://www.w3.org/TR/trace-context/) be read
// from and written to a call's metadata. Names in it are lower case, as gRPC's are.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// begin makes the call part of a trace: the caller's if it has one. Without a
// tracer the call stays as it is. end must be called with what the caller gets.
func (s *Server) begin(caller grpc.ServerStream, method string) (_ grpc.ServerStream, end func(error)) {
	if s.tracer == nil {
		return caller, func(error) {}
	}
	ctx := caller.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier(md))
	}
	return s.span(caller, ctx, method, trace.SpanKindServer)
}

// beginForward is begin for what containerd does of a call.
func (s *Server) beginForward(caller grpc.ServerStream) (_ grpc.ServerStream, end func(error)) {
	if s.tracer == nil {
		return caller, func(error) {}
	}
	return s.span(caller, caller.Context(), "forward", trace.SpanKindClient)
}

func (s *Server) span(caller grpc.ServerStream, ctx context.Context, name string, kind trace.SpanKind) (grpc.ServerStream, func(error)) { //nolint:revive // the stream is wrapped, the context goes into it
	ctx, span := s.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attribute.String("rpc.system", "grpc")))
	return traced{caller, ctx}, func(err error) {
		if err != nil {
			span.SetStatus(otelcodes.Error, status.Convert(err).Message())
		}
		span.SetAttributes(attribute.String("rpc.grpc.status", status.Code(err).String()))
		span.End()
	}
}

// propagate writes our span, if ctx has one, over the caller's in md. Without one
// md passes as it came.
func propagate(ctx context.Context, md metadata.MD) {
	if own := trace.SpanContextFromContext(ctx); own.IsValid() && !own.IsRemote() {
		propagation.TraceContext{}.Inject(ctx, carrier(md))
	}
}
