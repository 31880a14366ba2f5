package tracing_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/internal/tracing/collectortest"
)

// environment sets variables for the SDK, which reads the process's own, and returns
// what Open is to see of them.
func environment(t *testing.T, vars map[string]string) func(string) string {
	t.Helper()
	for name, value := range vars {
		t.Setenv(name, value)
	}
	return func(name string) string { return vars[name] }
}

func TestSpansArriveAtTheCollector(t *testing.T) { //nolint:paralleltest // the environment is the process's
	for _, protocol := range []string{"", "http/protobuf", "grpc"} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			c := collectortest.Run(t)
			endpoint := c.HTTP
			if protocol == "grpc" {
				endpoint = c.GRPC
			}
			p, err := tracing.Open(t.Context(), environment(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
			}), "v1")
			if err != nil || p == nil {
				t.Fatalf("open: %v, %v", p, err)
			}
			ctx, root := p.Tracer().Start(t.Context(), "PullImage")
			inner, child := tracing.Start(ctx, "negotiate", tracing.KeyFormat.String("overlaybd"))
			_, leaf := tracing.Start(inner, "registry request")
			leaf.End(reason.Errorf(reason.RegistryUnreachable, "no route"))
			child.End(nil)
			root.End()
			if err := p.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			spans := make(map[string]collectortest.Span)
			for _, s := range c.Spans() {
				spans[s.Name] = s
			}
			pull, negotiate, asked := spans["PullImage"], spans["negotiate"], spans["registry request"]
			if pull.Service != "referee" || pull.Parent != "" || negotiate.Parent != pull.ID || asked.Parent != negotiate.ID || asked.Trace != pull.Trace {
				t.Errorf("not one below the other: %+v", spans)
			}
			if !asked.Failed || negotiate.Failed || asked.Attributes["referee.reason"] != "registry-unreachable" {
				t.Errorf("not told what failed: %+v", spans)
			}
			if diff := cmp.Diff(map[string]string{"referee.format": "overlaybd"}, negotiate.Attributes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServiceNameAndSamplerAreTheEnvironments(t *testing.T) { //nolint:paralleltest // the environment is the process's
	for name, tc := range map[string]struct {
		sampler, service string
		spans            int
	}{
		"always":  {"always_on", "node-7", 1},
		"nothing": {"always_off", "node-7", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := collectortest.Run(t)
			p, err := tracing.Open(t.Context(), environment(t, map[string]string{
				"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.HTTP + "/v1/traces", "OTEL_SERVICE_NAME": tc.service, "OTEL_TRACES_SAMPLER": tc.sampler,
			}), "v1")
			if err != nil {
				t.Fatal(err)
			}
			_, span := p.Tracer().Start(t.Context(), "PullImage")
			span.End()
			if err := p.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			spans := c.Spans()
			if len(spans) != tc.spans || len(spans) > 0 && spans[0].Service != tc.service {
				t.Errorf("got %+v, want %d of service %s", spans, tc.spans, tc.service)
			}
		})
	}
}

func TestTracingIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	for name, vars := range map[string]map[string]string{
		"no endpoint":  {},
		"disabled":     {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
		"other signal": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
		"no exporter":  {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := tracing.Open(t.Context(), func(name string) string { return vars[name] }, "v1")
			if err != nil || p != nil || p.Tracer() != nil || p.Close(t.Context()) != nil {
				t.Errorf("%v, %v; want nothing that works as nothing", p, err)
			}
		})
	}
	if _, err := tracing.Open(t.Context(), func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}[name]
	}, "v1"); err == nil {
		t.Error("a protocol that nobody speaks was accepted")
	}
}

func TestNothingIsMadeWithoutATrace(t *testing.T) {
	t.Parallel()
	ctx, span := tracing.Start(t.Context(), "negotiate")
	if ctx != t.Context() {
		t.Error("the context was changed")
	}
	span.Set(tracing.KeyFormat.String("x"))
	span.End(nil)
}

func BenchmarkStartWithoutATrace(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for b.Loop() {
		_, span := tracing.Start(ctx, "registry request")
		span.End(nil)
	}
}
