package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/telemetry"
)

// A format that the metrics do not know would be counted as another.
func TestMetricsKnowEveryFormat(t *testing.T) {
	t.Parallel()
	m := telemetry.New("v1")
	for name := range formats(nil) {
		m.Pull(&fallback.Entry{Outcome: fallback.Lazy, Format: name, Forward: &fallback.Forward{}})
	}
	answer := httptest.NewRecorder()
	m.Handler(nil, zap.NewNop()).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for name := range formats(nil) {
		if want := `referee_pulls_total{format="` + name + `",mode="lazy",result="ok"} 1`; !strings.Contains(answer.Body.String(), want) {
			t.Errorf("not counted: %s", want)
		}
	}
}
