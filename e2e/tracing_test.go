package e2e_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/tracing/collectortest"
)

// TestOneTrace pulls with the kubelet's trace context: what Referee and containerd do
// for it is one trace at the collector.
func TestOneTrace(t *testing.T) {
	c := collectortest.Run(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.HTTP)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100") // milliseconds
	b := newBed(t, node.Options{}, "")
	b.pushTiny(t)
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace+"-"+parent+"-01")
	ref := b.registry.Ref("tiny", "tiny")
	if _, err := b.lazy.Pull(ctx, ref, nil); err != nil {
		t.Fatal(err)
	}

	spans := func() []collectortest.Span {
		return slices.DeleteFunc(c.Spans(), func(s collectortest.Span) bool { return s.Trace != trace })
	}
	find := func(service, name string) (collectortest.Span, bool) {
		all := spans()
		i := slices.IndexFunc(all, func(s collectortest.Span) bool { return s.Service == service && s.Name == name })
		if i < 0 {
			return collectortest.Span{}, false
		}
		return all[i], true
	}
	for name, below := range map[string]string{
		"prepare": "PullImage", "forward": "PullImage", "negotiate": "prepare", "attach": "prepare",
		"mount": "attach", "graft": "attach", "registry request": "",
	} {
		eventually.True(t, "span "+name+" arrives", func() bool { _, found := find("referee", name); return found })
		if below == "" {
			continue
		}
		eventually.True(t, "span "+below+" arrives", func() bool { _, found := find("referee", below); return found })
		child, _ := find("referee", name)
		if up, _ := find("referee", below); child.Parent != up.ID || child.Failed {
			t.Errorf("span %+v, want one below %s", child, below)
		}
	}
	if root, _ := find("referee", "PullImage"); root.Parent != parent {
		t.Errorf("the pull is below %q, want the kubelet's span %s", root.Parent, parent)
	}
	forward, _ := find("referee", "forward")
	eventually.True(t, "containerd's part is below ours", func() bool {
		return slices.ContainsFunc(spans(), func(s collectortest.Span) bool { return s.Service == "containerd" && s.Parent == forward.ID })
	})
	b.expectReleased(t, ref)
}
