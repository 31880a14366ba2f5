package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/referee-cri/referee/internal/reason"
)

// scope is the name of the instrumentation, by OpenTelemetry's convention that of
// the module.
const scope = "github.com/referee-cri/referee"

// maxText bounds a span's description, in bytes.
const maxText = 1024

// Names of attributes. The first is containerd's.
const (
	KeyImage  = attribute.Key("image.ref")
	KeyReason = attribute.Key("referee.reason")
	KeyFormat = attribute.Key("referee.format")
	KeyMode   = attribute.Key("referee.outcome")
)

// Span is a part of a pull that takes time.
type Span struct{ span trace.Span }

// Start begins a span below the one in ctx. Where that is not recorded it does
// nothing and returns ctx.
func Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, Span{span}
}

// Set adds attributes.
func (s Span) Set(attributes ...attribute.KeyValue) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// End ends the span. An error makes it failed, with the error's reason code.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		text := err.Error()
		s.span.SetStatus(codes.Error, text[:min(len(text), maxText)])
		s.span.SetAttributes(KeyReason.String(string(reason.Of(err))))
	}
	s.span.End()
}
