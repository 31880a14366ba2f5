package telemetry_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/telemetry"
)

// expressions are those of the dashboard and of the alerts, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	decode(t, "../../configs/grafana/referee.json", json.Unmarshal, &board)
	found := make(map[string]string)
	for _, panel := range board.Panels {
		for i, target := range panel.Targets {
			found["panel "+panel.Title+" "+string(rune('A'+i))] = target.Expr
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	decode(t, "../../configs/prometheus/rules.yaml", yaml.Unmarshal, &rules)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			found["alert "+rule.Alert] = rule.Expr
		}
	}
	if len(found) < 50 {
		t.Fatalf("only %d expressions found", len(found))
	}
	return found
}

func decode(t *testing.T, path string, unmarshal func([]byte, any) error, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

var (
	selector  = regexp.MustCompile(`\b(referee_\w+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping  = regexp.MustCompile(`\bby \(([^)]*)\)`)
	ofTargets = []string{"job", "instance", "le"} // which Prometheus adds
)

// Dashboards and alerts may use only metrics, labels and reason codes that exist.
func TestDashboardsUseMetricsThatExist(t *testing.T) {
	t.Parallel()
	metrics := make(map[string]telemetry.Definition)
	for _, d := range busy().Definitions() {
		metrics[d.Name] = d
		if d.Type == "histogram" {
			metrics[d.Name+"_bucket"], metrics[d.Name+"_sum"], metrics[d.Name+"_count"] = d, d, d
			delete(metrics, d.Name)
		}
	}
	used := make(map[string]bool)
	for where, expr := range expressions(t) {
		labels := slices.Clone(ofTargets)
		for _, match := range selector.FindAllStringSubmatch(expr, -1) {
			d, known := metrics[match[1]]
			if !known {
				t.Errorf("%s: no metric %s", where, match[1])
				continue
			}
			used[d.Name] = true
			labels = append(labels, d.Labels...)
			for _, label := range matcher.FindAllStringSubmatch(match[2], -1) {
				if !slices.Contains(append(slices.Clone(ofTargets), d.Labels...), label[1]) {
					t.Errorf("%s: %s has no label %s", where, match[1], label[1])
				}
				if label[1] == "reason" {
					for _, code := range strings.Split(label[3], "|") {
						if !knownCode(code) {
							t.Errorf("%s: no reason code %s", where, code)
						}
					}
				}
			}
		}
		for _, by := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, label := range strings.Split(by[1], ", ") {
				if !slices.Contains(labels, label) {
					t.Errorf("%s: groups by %s, which no metric there has", where, label)
				}
			}
		}
	}
	for _, d := range busy().Definitions() {
		if !used[d.Name] && d.Name != "referee_build_info" && d.Name != "referee_cache_blobs" && d.Name != "referee_fetches_total" && d.Name != "referee_fetches_hedged_total" &&
			d.Name != "referee_cache_evictions_total" && d.Name != "referee_cache_reads_total" && d.Name != "referee_completion_blobs_total" &&
			d.Name != "referee_quarantined_unreplaced" && d.Name != "referee_trace_replayed_bytes_total" {
			t.Errorf("neither panel nor alert uses %s", d.Name)
		}
	}
}

func knownCode(code string) bool { return reason.Known(reason.Code(code)) }
