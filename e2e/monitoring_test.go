package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/eventually"
)

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// fetch gets a URL's text and status.
func fetch(ctx context.Context, client *http.Client, target string) (status int, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// TestMonitoring has a real Prometheus scrape a daemon that pulls and reads lazily,
// and answers with what it scraped everything that the dashboard asks.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	b := newBed(t, node.Options{}, fmt.Sprintf("[metrics]\naddress = %q\n", address))
	prometheus := runPrometheus(t, address)
	ref := b.pushTiny(t)
	b.pull(t, ref, fallback.Lazy)
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	if _, err := container.Output(t.Context(), "/bin/busybox", "md5sum", "/data/random.bin"); err != nil {
		t.Fatal(err)
	}

	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "containerd: ok\nvolumes: ok\n"} {
		status, text, err := fetch(t.Context(), http.DefaultClient, "http://"+address+path)
		if err != nil || status != http.StatusOK || text != want {
			t.Errorf("%s: %d %q, %v; want %q", path, status, text, err, want)
		}
	}
	_, text, err := fetch(t.Context(), http.DefaultClient, "http://"+address+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{ref, b.registry.Host(), "sha256:"} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics name %q", secret)
		}
	}
	for query, least := range map[string]float64{
		`referee_pulls_total{mode="lazy",format="overlaybd",result="ok"}`:        1,
		`referee_devices{state="partial"}`:                                       1,
		`referee_grafts_total{result="ok"}`:                                      1,
		`referee_cache_bytes`:                                                    1,
		`referee_fetch_bytes_total{kind="demand"}`:                               1,
		`sum(referee_device_read_latency_seconds_count{source="remote"})`:        1,
		`referee_cri_requests_total{method="PullImage",code="OK"}`:               1,
		`referee_pull_step_duration_seconds_count{step="graft"}`:                 1,
		`sum(referee_registry_requests_total{endpoint="referrers"})`:             1,
		`referee_driver_info{driver="fuse"}`:                                     1,
		`up{job="referee"}`:                                                      1,
		`process_resident_memory_bytes{job="referee"}`:                           1 << 20,
		`count(ALERTS{alertname=~"Referee.*",alertstate="firing"}) or vector(0)`: 0,
	} {
		eventually.True(t, "Prometheus says of "+query+" what is true", func() bool {
			values, err := prometheus.ask(t.Context(), query)
			return err == nil && len(values) == 1 && values[0] >= least
		})
	}
	for title, expr := range dashboard(t) {
		if _, err := prometheus.ask(t.Context(), expr); err != nil {
			t.Errorf("panel %s: %v", title, err)
		}
	}
	expectProfiles(t, filepath.Join(b.Dir(), "referee-state"))
	removePod(t, container)
	b.expectReleased(t, ref)
}

// TestAlertRules has Prometheus' own tool check the rules, and try them.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		run := exec.CommandContext(t.Context(), "promtool", args...)
		run.Dir = filepath.Join(root, "configs", "prometheus")
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func expectProfiles(t *testing.T, state string) {
	t.Helper()
	path := control.DebugPath(state)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("debug socket: %v, %v; want one that others cannot open", info, err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	status, text, err := fetch(t.Context(), client, "http://referee/debug/pprof/goroutine?debug=1")
	if err != nil || status != http.StatusOK || !strings.Contains(text, "criimage") {
		t.Errorf("profile: %d, %v, %.80q", status, err, text)
	}
}

// dashboard returns the questions of the dashboard, its variables filled in.
func dashboard(t *testing.T) map[string]string {
	t.Helper()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "configs", "grafana", "referee.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$job", "referee", "$instance", ".*", "$__rate_interval", "1m", "$__range", "1h")
	questions := make(map[string]string)
	for _, panel := range board.Panels {
		for i, target := range panel.Targets {
			questions[fmt.Sprintf("%s %d", panel.Title, i)] = fill.Replace(target.Expr)
		}
	}
	if len(questions) < 40 {
		t.Fatalf("only %d questions in the dashboard", len(questions))
	}
	return questions
}

// prometheus is a running server.
type prometheus struct{ address string }

// runPrometheus scrapes target every second until the test ends, under the job that
// the alerts expect, and evaluates them.
func runPrometheus(t *testing.T, target string) prometheus {
	t.Helper()
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir, p := t.TempDir(), prometheus{freeAddress(t)}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: referee, static_configs: [{targets: [%q]}]}]\n",
		filepath.Join(root, "configs", "prometheus", "rules.yaml"), target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	server := exec.Command("prometheus", //nolint:noctx // ended below, after its context would have
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatalf("start prometheus (Debian package prometheus): %v", err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // says that it was killed
		if t.Failed() {
			t.Logf("prometheus: %s", log.String())
		}
	})
	eventually.True(t, "prometheus answers", func() bool {
		status, _, err := fetch(t.Context(), http.DefaultClient, "http://"+p.address+"/-/ready")
		return err == nil && status == http.StatusOK
	})
	return p
}

// ask evaluates an expression now.
func (p prometheus) ask(ctx context.Context, query string) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, text, err := fetch(ctx, http.DefaultClient, "http://"+p.address+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("%s: %w: %.200s", query, err, text)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", query, answer.Error)
	}
	var values []float64
	for _, result := range answer.Data.Result {
		value, err := strconv.ParseFloat(fmt.Sprint(result.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		values = append(values, value)
	}
	return values, nil
}
