package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/telemetry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/cache"
)

// busy returns metrics of a daemon to which everything has happened once.
func busy() *telemetry.Metrics {
	m := telemetry.New("v0.0.0-test")
	m.Watch(func() telemetry.State {
		return telemetry.State{
			Cache:    cache.Stats{Bytes: 100, Limit: 1000, Hits: 5, Misses: 2, HitBytes: 50, MissBytes: 20, Evictions: 1},
			Devices:  telemetry.Devices{Partial: 2, Whole: 1},
			Breakers: []fallback.Breaker{{Key: "secret.registry.example", Open: true}, {Key: "overlaybd from secret.registry.example", Format: true}},
			Driver:   "fuse",
		}
	})
	m.Pull(&fallback.Entry{Outcome: fallback.Lazy, Format: "overlaybd", Forward: &fallback.Forward{}, Steps: fallback.Steps{Prepare: .2, Negotiate: .1, Forward: .3}})
	m.Pull(&fallback.Entry{Outcome: fallback.Ordinary, Reason: reason.NoReferrers, Forward: &fallback.Forward{Error: "refused"}})
	m.Pull(&fallback.Entry{Outcome: fallback.Ordinary, Reason: reason.AlreadyPresent, Forward: &fallback.Forward{}})
	m.Call(criimage.Call{Method: "/runtime.v1.ImageService/PullImage", Ours: true, Took: time.Second})
	m.Call(criimage.Call{Method: "/runtime.v1.ImageService/ImageStatus", Took: time.Millisecond, Err: status.Error(codes.NotFound, "x")})
	m.Asked(registry.Asked{Path: "referrers/sha256:abc", Took: time.Millisecond})
	m.Asked(registry.Asked{Path: "blobs/sha256:abc", Err: &registry.StatusError{StatusCode: 503}})
	m.Fetch(lazyblock.Demand, time.Millisecond, 4096, nil)
	m.Fetch(lazyblock.Background, time.Millisecond, 0, errors.New("cut"))
	m.Hedge()
	m.Read(time.Millisecond, true, nil)
	m.Read(time.Microsecond, false, nil)
	m.Read(time.Second, true, reason.Errorf(reason.RegistryUnreachable, "down"))
	m.Corrupt()
	return m
}

func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	return get(t, m.Handler(nil, zap.NewNop()), "/metrics", http.StatusOK)
}

func get(t *testing.T, handler http.Handler, path string, code int) string {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != code {
		t.Errorf("GET %s: %s, want %d:\n%s", path, response.Status, code, text)
	}
	return string(text)
}

func TestMetricsFollowPrometheusRules(t *testing.T) {
	t.Parallel()
	problems, err := promlint.New(strings.NewReader(scrape(t, busy()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetricsCountWhatHappens(t *testing.T) {
	t.Parallel()
	text := scrape(t, busy())
	for _, want := range []string{
		`referee_pulls_total{format="overlaybd",mode="lazy",result="ok"} 1`,
		`referee_pulls_total{format="",mode="full",result="error"} 1`,
		`referee_pulls_total{format="",mode="present",result="ok"} 1`,
		`referee_fallbacks_total{reason="no-referrers"} 1`,
		`referee_pull_duration_seconds_sum{mode="lazy"} 0.5`,
		`referee_pull_step_duration_seconds_count{step="negotiate"} 1`,
		`referee_cri_requests_total{code="NotFound",method="ImageStatus"} 1`,
		`referee_cri_request_duration_seconds_count{method="PullImage",path="local"} 1`,
		`referee_registry_requests_total{code="503",endpoint="blobs"} 1`,
		`referee_referrers_duration_seconds_count{result="ok"} 1`,
		`referee_fetch_bytes_total{kind="demand"} 4096`,
		`referee_fetches_total{kind="prefetch",result="error"} 1`,
		`referee_fetches_hedged_total 1`,
		`referee_device_read_latency_seconds_count{source="remote"} 1`,
		`referee_device_read_errors_total{reason="registry-unreachable"} 1`,
		`referee_verify_failures_total 1`,
		`referee_cache_bytes 100`,
		`referee_cache_reads_total{result="hit"} 5`,
		`referee_devices{state="partial"} 2`,
		`referee_breakers{kind="registry",state="open"} 1`,
		`referee_breakers{kind="format",state="counting"} 1`,
		`referee_driver_info{driver="fuse"} 1`,
		`referee_build_info{`,
		`go_goroutines `,
		`process_open_fds `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not in the metrics: %s", want)
		}
	}
}

// What the outside can invent must not become the value of a label.
func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	m := busy()
	before := strings.Count(scrape(t, m), "\n")
	const odd = "evil-value"
	for i := range 100 {
		name := fmt.Sprintf("%s-%d", odd, i)
		m.Call(criimage.Call{Method: "/" + name + "/PullImage"})
		m.Call(criimage.Call{Method: "/runtime.v1.ImageService/" + name})
		m.Call(criimage.Call{Method: name})
		m.Asked(registry.Asked{Path: name, Err: errors.New(name)})
		m.Asked(registry.Asked{Path: "manifests/" + name})
		m.Pull(&fallback.Entry{Reference: name, Outcome: fallback.Lazy, Format: name})
		m.Pull(&fallback.Entry{Reference: name, Outcome: fallback.Ordinary, Reason: reason.Code(name)})
		m.Read(0, false, reason.Errorf(reason.Code(name), "x"))
	}
	text := scrape(t, m)
	if strings.Contains(text, odd) || strings.Contains(text, "secret.registry.example") {
		t.Error("a label has a value from outside")
	}
	if grown := strings.Count(text, "\n") - before; grown > 200 {
		t.Errorf("%d new lines after 800 odd events, want a bounded number", grown)
	}
}

func TestDefinitionsAreWhatIsServed(t *testing.T) {
	t.Parallel()
	m := busy()
	text := scrape(t, m)
	var names []string
	for _, d := range m.Definitions() {
		names = append(names, d.Name)
		if want := "# TYPE " + d.Name + " " + d.Type + "\n"; !strings.Contains(text, want) {
			t.Errorf("not served: %s", want)
		}
		if !strings.HasSuffix(d.Help, ".") {
			t.Errorf("%s: help is no sentence: %q", d.Name, d.Help)
		}
	}
	for line := range strings.Lines(text) {
		if name, found := strings.CutPrefix(line, "# TYPE referee_"); found {
			name, _, _ = strings.Cut(name, " ")
			if !slices.Contains(names, "referee_"+name) {
				t.Errorf("served and not defined: referee_%s", name)
			}
		}
	}
}

func TestHealthDependsOnNobody(t *testing.T) {
	t.Parallel()
	broken := []telemetry.Check{
		{Name: "containerd", Ask: func(context.Context) error { return errors.New("does not answer") }},
		{Name: "volumes", Ask: func(context.Context) error { return nil }},
	}
	handler := telemetry.New("x").Handler(broken, zap.NewNop())
	get(t, handler, "/healthz", http.StatusOK)
	if got, want := get(t, handler, "/readyz", http.StatusServiceUnavailable), "containerd: does not answer\nvolumes: ok\n"; got != want {
		t.Errorf("/readyz says %q, want %q", got, want)
	}
	get(t, telemetry.New("x").Handler(broken[1:], zap.NewNop()), "/readyz", http.StatusOK)
	get(t, handler, "/debug/pprof/", http.StatusNotFound) // profiles are for root's socket
}

func TestReadinessIsBounded(t *testing.T) {
	t.Parallel()
	hangs := []telemetry.Check{{Name: "containerd", Ask: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}
	get(t, telemetry.New("x").Handler(hangs, zap.NewNop()), "/readyz", http.StatusServiceUnavailable)
}

func TestProfilesAnswer(t *testing.T) {
	t.Parallel()
	text := get(t, telemetry.Profiles(), "/debug/pprof/goroutine?debug=1", http.StatusOK)
	if !strings.Contains(text, "goroutine profile") {
		t.Errorf("no profile: %.80q", text)
	}
}
