package telemetry

import (
	"time"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/volume"
)

var _ volume.Observer = (*Metrics)(nil)

// Fetch counts a request for a range of a blob; see blob.Options.Observe.
func (m *Metrics) Fetch(p lazyblock.Priority, took time.Duration, n int, err error) {
	kind, result := "demand", "ok"
	if p == lazyblock.Background {
		kind = "prefetch"
	}
	if err != nil {
		result = "error"
	}
	m.fetched.WithLabelValues(kind).Add(float64(n))
	m.fetches.WithLabelValues(kind, result).Inc()
	if err == nil {
		m.fetchTook.WithLabelValues(kind).Observe(took.Seconds())
	}
}

// Hedge counts a second request for a slow range; see blob.Options.Hedged.
func (m *Metrics) Hedge() { m.hedged.Inc() }

// Read implements [volume.Observer].
func (m *Metrics) Read(took time.Duration, waited bool, err error) {
	if err != nil {
		m.readErrors.WithLabelValues(string(knownReason(reason.Of(err)))).Inc()
		return
	}
	source := "cache"
	if waited {
		source = "remote"
	}
	m.reads.WithLabelValues(source).Observe(took.Seconds())
}

// Corrupt implements [volume.Observer].
func (m *Metrics) Corrupt() { m.corrupt.Inc() }
