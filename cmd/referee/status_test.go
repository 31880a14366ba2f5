package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/control/controltest"
	"github.com/referee-cri/referee/internal/logging"
)

// answering is a daemon that knows one path. It ends with the test, or end.
func answering(t *testing.T, path string, handler http.HandlerFunc) (client control.Client, end func()) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(path, handler)
	return controltest.Serve(t, mux)
}

var oneVolume = status{
	Version: "v1", Driver: "fuse", Pulls: 1, Cache: statusCache{Limit: 1 << 30, Cached: 1 << 20, Blobs: 3, Hits: 3, Misses: 1, Waiting: 2},
	Volumes: []statusVolume{{ID: "0123456789abcdef", Reference: "r.example/app:1", Format: "overlaybd", Mounted: true, Size: 100, Cached: 25, Fetched: 30, Requests: 4}},
}

func TestStatusOfOneScreen(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	if err := oneVolume.write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 pull in flight", "2 reads waiting", "75.0 % of 4 reads answered here", "0123456789ab  overlaybd  25 B  100 B  ██░░░░░░░░", "mounted", "r.example/app:1",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("not told: %q in\n%s", want, text.String())
		}
	}
}

// until is a writer that ends the watch once it was told something.
type until struct {
	bytes.Buffer

	what string
	end  func()
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.Buffer.Write(p)
	if strings.Contains(u.String(), u.what) {
		u.end()
	}
	return n, err
}

func TestWatchLivesThroughARestart(t *testing.T) {
	t.Parallel()
	client, stop := answering(t, "GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _ = control.NewStream(w).Send(oneVolume) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	screen := &until{what: "r.example/app:1", end: stop}
	gone := &until{what: "the daemon does not run", end: cancel}
	both := writers{screen, gone}
	if err := watchStatus(ctx, both, client, "text", 5*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if text := gone.String(); !strings.Contains(text, "the daemon does not run") || strings.Count(text, cursorHome) < 2 {
		t.Errorf("watched %q", text)
	}
}

type writers []*until

func (w writers) Write(p []byte) (int, error) {
	for _, to := range w {
		if _, err := to.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func TestWatchedJSONIsAValueALine(t *testing.T) {
	t.Parallel()
	client, _ := answering(t, "GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _ = control.NewStream(w).Send(oneVolume) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &until{what: "}\n{", end: cancel}
	if err := watchStatus(ctx, out, client, "json", time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		var s status
		if err := json.Unmarshal([]byte(line), &s); err != nil || s.Version != "v1" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestLogLevelIsAskedAndSet(t *testing.T) {
	t.Parallel()
	_, level, err := logging.New("warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	client, _ := answering(t, "/v1/log-level", func(w http.ResponseWriter, r *http.Request) { handleLogLevel(w, r, level, zap.NewNop()) })
	ask := func(method, query string) (logLevel, error) {
		var said logLevel
		err := client.Do(t.Context(), method, "/v1/log-level"+query, func(line json.RawMessage) error { return json.Unmarshal(line, &said) })
		return said, err
	}
	for _, step := range []struct {
		method, query string
		want          logLevel
	}{
		{http.MethodGet, "", logLevel{"warn", "warn"}},
		{http.MethodPut, "?level=debug", logLevel{"debug", "warn"}},
		{http.MethodGet, "?level=error", logLevel{"debug", "warn"}}, // asking changes nothing
		{http.MethodPut, "?level=reset", logLevel{"warn", "warn"}},
	} {
		if got, err := ask(step.method, step.query); err != nil || got != step.want {
			t.Errorf("%s %s: %+v, %v; want %+v", step.method, step.query, got, err, step.want)
		}
	}
	if _, err := ask(http.MethodPut, "?level=loud"); err == nil || !strings.Contains(err.Error(), "want debug") {
		t.Errorf("a level that is none: %v", err)
	}
}
