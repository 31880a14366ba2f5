package telemetry

import (
	"runtime"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/referee-cri/referee/internal/reason"
)

const namespace = "referee"

// Definition is one metric as documentation and dashboards know it.
type Definition struct {
	Name   string
	Type   string // "counter", "gauge" or "histogram"
	Labels []string
	Help   string
}

// Metrics are the metrics of one daemon. Its methods are safe for concurrent use.
type Metrics struct {
	registry    *prometheus.Registry
	definitions []Definition

	pulls         *prometheus.CounterVec
	pullTook      *prometheus.HistogramVec
	stepTook      *prometheus.HistogramVec
	fallbacks     *prometheus.CounterVec
	calls         *prometheus.CounterVec
	callTook      *prometheus.HistogramVec
	asked         *prometheus.CounterVec
	askedTook     *prometheus.HistogramVec
	referrersTook *prometheus.HistogramVec
	fetched       *prometheus.CounterVec
	fetches       *prometheus.CounterVec
	fetchTook     *prometheus.HistogramVec
	hedged        prometheus.Counter
	reads         *prometheus.HistogramVec
	readErrors    *prometheus.CounterVec
	corrupt       prometheus.Counter
}

// Buckets of durations, in seconds. Pulls are sub-second where they are lazy and
// minutes where they are not; a read takes microseconds where the bytes are here
// and a round trip or two where not.
func pullBuckets() []float64 {
	return []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
}

func stepBuckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}
}

func readBuckets() []float64 {
	return []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}
}

// New returns the metrics of a daemon of that version. Nothing is registered
// anywhere but with it.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.gauges("build_info", "What this daemon was built from; always 1.", "version", "go_version").
		WithLabelValues(version, runtime.Version()).Set(1)

	m.pulls = m.counters("pulls_total", "Pulls that have ended: lazy, full (containerd fetched the layers) or present (the image was in place).", "mode", "format", "result")
	m.fallbacks = m.counters("fallbacks_total", "Pulls that were not lazy although their image was not in place, by reason code.", "reason")
	m.pullTook = m.histograms("pull_duration_seconds", "How long pulls took, containerd's part included.", pullBuckets(), "mode")
	m.stepTook = m.histograms("pull_step_duration_seconds", "How long each step of pulls took. The steps open, mount and graft overlap.", stepBuckets(), "step")

	m.calls = m.counters("cri_requests_total", "CRI calls that have ended, by method and gRPC status code.", "method", "code")
	m.callTook = m.histograms("cri_request_duration_seconds", "How long CRI calls took; path proxy: only forwarded, local: a pull or removal.", stepBuckets(), "method", "path")

	m.asked = m.counters("registry_requests_total", "Requests to registry hosts: what for, and the status code of the answer or error.", "endpoint", "code")
	m.askedTook = m.histograms("registry_request_duration_seconds", "How long registry hosts took to begin an answer, tokens and redirects included.", stepBuckets(), "endpoint")
	m.referrersTook = m.histograms("referrers_duration_seconds", "How long registry hosts took to say what is attached to an image.", stepBuckets(), "result")
	m.fetched = m.counters("fetch_bytes_total", "Bytes of blobs received from registries: demand where somebody waited, prefetch where nobody did.", "kind")
	m.fetches = m.counters("fetches_total", "Requests for ranges of blobs.", "kind", "result")
	m.hedged = m.counter("fetches_hedged_total", "Ranges that were asked for a second time because the first request took longer than nearly all have lately.")
	m.fetchTook = m.histograms("fetch_duration_seconds", "How long ranges of blobs took to be received.", stepBuckets(), "kind")

	m.reads = m.histograms("device_read_latency_seconds", "How long reads of lazy volumes took that the page cache could not answer; source remote: they waited for a registry.", readBuckets(), "source")
	m.readErrors = m.counters("device_read_errors_total", "Reads of lazy volumes that ended in an I/O error for the container, by reason code.", "reason")
	m.corrupt = m.counter("verify_failures_total", "Times that bytes of a lazy volume came and were wrong; they are never given to a reader.")
	m.begin()
	return m
}

// begin makes the series that alerts and rates look at: the first event of a
// series that was not there before does not count as an increase.
func (m *Metrics) begin() {
	for _, code := range []reason.Code{
		reason.RegistryUnreachable, reason.RegistryError, reason.Unauthorized, reason.NotFound, reason.NoRange,
		reason.SizeMismatch, reason.DigestMismatch, reason.FormatCorrupt, reason.BudgetExceeded, reason.Internal,
	} {
		m.readErrors.WithLabelValues(string(code))
	}
	for _, kind := range []string{"demand", "prefetch"} {
		m.fetched.WithLabelValues(kind)
	}
	for _, result := range []string{"ok", "error"} {
		m.pulls.WithLabelValues(modeFull, "", result)
		m.pulls.WithLabelValues(modePresent, "", result)
	}
}

// Definitions lists the metrics that are Referee's own, by name.
func (m *Metrics) Definitions() []Definition {
	list := slices.Clone(m.definitions)
	slices.SortFunc(list, func(a, b Definition) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

func (m *Metrics) define(name, kind, help string, labels []string) {
	m.definitions = append(m.definitions, Definition{Name: namespace + "_" + name, Type: kind, Labels: labels, Help: help})
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	m.define(name, "counter", help, nil)
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	m.define(name, "counter", help, labels)
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	m.define(name, "gauge", help, labels)
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	m.define(name, "histogram", help, labels)
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}
