package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/trace"
)

// State is what a daemon is and has done, asked for at each scrape.
type State struct {
	Cache      cache.Stats
	Completion complete.Stats
	Traces     trace.Stats
	Host       host.Stats
	Devices    Devices
	Breakers   []fallback.Breaker // of registries, then of formats
	Pulls      int                // under way
	Draining   bool
	Driver     string // "none": pulls are ordinary
}

// Devices counts volumes by what they are; each is in one place.
type Devices struct {
	Partial     int // mounted, part of it still at the registry
	Whole       int // mounted, and needs its registry no more
	Quarantined int // mounted, and its bytes turned out to be wrong
	Unmounted   int // known and not mounted
}

// Watch has every scrape ask for the daemon's state. It may be called once.
func (m *Metrics) Watch(now func() State) {
	s := &state{now: now}
	gauge := func(name, help string, labels []string, tell func(State, sample)) {
		s.add(m, name, "gauge", help, labels, tell)
	}
	counter := func(name, help string, labels []string, tell func(State, sample)) {
		s.add(m, name, "counter", help, labels, tell)
	}

	gauge("cache_bytes", "Bytes of blobs on disk.", nil, func(s State, is sample) { is(s.Cache.Bytes) })
	gauge("cache_limit_bytes", "Bytes of blobs that are kept on disk at most.", nil, func(s State, is sample) { is(s.Cache.Limit) })
	gauge("cache_in_use_bytes", "Of the bytes on disk, those of mounted volumes, which are not evicted.", nil, func(s State, is sample) { is(s.Cache.InUse) })
	gauge("cache_scratch_bytes", "Of the bytes on disk, those that were decoded and go first where room is needed.", nil, func(s State, is sample) { is(s.Cache.Scratch) })
	gauge("cache_blobs", "Blobs of which something is on disk.", nil, func(s State, is sample) { is(int64(s.Cache.Blobs)) })
	counter("cache_reads_total", "Reads of blobs: hit where everything was on disk, miss where the reader waited.", []string{"result"}, func(s State, is sample) {
		is(s.Cache.Hits, "hit")
		is(s.Cache.Misses, "miss")
	})
	counter("read_bytes_total", "Bytes of blobs that readers were given: source remote where they waited for a registry.", []string{"source"}, func(s State, is sample) {
		is(s.Cache.HitBytes, "cache")
		is(s.Cache.MissBytes, "remote")
	})
	counter("cache_evictions_total", "Blobs removed from disk to make room.", nil, func(s State, is sample) { is(s.Cache.Evictions) })
	counter("cache_evicted_bytes_total", "Bytes removed from disk to make room.", nil, func(s State, is sample) { is(s.Cache.EvictedBytes) })
	counter("cache_refused_bytes_total", "Bytes fetched that could not be kept for want of room.", nil, func(s State, is sample) { is(s.Cache.RefusedBytes) })
	gauge("readers_waiting", "Reads that wait for a registry now.", nil, func(s State, is sample) { is(s.Cache.Waiting) })

	gauge("devices", "Lazy volumes of this node.", []string{"state"}, func(s State, is sample) {
		is(int64(s.Devices.Partial), "partial")
		is(int64(s.Devices.Whole), "whole")
		is(int64(s.Devices.Quarantined), "quarantined")
		is(int64(s.Devices.Unmounted), "unmounted")
	})
	gauge("quarantined_unreplaced", "Quarantined volumes for which the image's own layers are not in place yet.", nil, func(s State, is sample) { is(int64(s.Completion.Unreplaced)) })
	gauge("completion_pending", "Mounted volumes that are still to be completed.", nil, func(s State, is sample) { is(int64(s.Completion.Incomplete)) })
	counter("completion_blobs_total", "Whole blobs compared with their digest; result mismatch puts a volume into quarantine.", []string{"result"}, func(s State, is sample) {
		is(s.Completion.SealedBlobs, "ok")
		is(s.Completion.OtherContent, "mismatch")
	})
	counter("completion_bytes_total", "Bytes of whole blobs that have their digest.", nil, func(s State, is sample) { is(s.Completion.SealedBytes) })

	counter("trace_recordings_total", "Starts whose reads were recorded.", nil, func(s State, is sample) { is(s.Traces.Recordings) })
	counter("trace_replays_total", "Recorded starts that were fetched ahead.", []string{"result"}, func(s State, is sample) {
		is(s.Traces.Replays, "ok")
		is(s.Traces.ReplayFailures, "error")
	})
	counter("trace_replayed_bytes_total", "Bytes that replays asked for.", nil, func(s State, is sample) { is(s.Traces.ReplayedBytes) })

	counter("grafts_total", "Images grafted into containerd's snapshotter.", []string{"result"}, func(s State, is sample) {
		is(s.Host.Grafts, "ok")
		is(s.Host.GraftFailures, "error")
	})
	counter("materialised_chains_total", "Chains whose original layers were put in the place of a volume.", []string{"result"}, func(s State, is sample) {
		is(s.Host.Materialised, "ok")
		is(s.Host.MaterialiseFailures, "error")
	})
	gauge("breakers", "Registries, and formats of registries, that failed lately: counting, or open and left alone.", []string{"kind", "state"}, breakers)
	gauge("pulls_in_flight", "Pulls under way.", nil, func(s State, is sample) { is(int64(s.Pulls)) })
	gauge("draining", "1 while the node is drained of lazy images.", nil, func(s State, is sample) { is(truth(s.Draining)) })
	gauge("driver_info", "1 for the way in which volumes are attached; none: pulls are ordinary.", []string{"driver"}, func(s State, is sample) {
		for _, driver := range []string{"fuse", "nbd", "none"} {
			is(truth(s.Driver == driver), driver)
		}
	})
	m.registry.MustRegister(s)
}

func breakers(s State, is sample) {
	count := make(map[[2]string]int64)
	for _, b := range s.Breakers {
		what := [2]string{"registry", "counting"}
		if b.Format {
			what[0] = "format"
		}
		if b.Open {
			what[1] = "open"
		}
		count[what]++
	}
	for _, kind := range []string{"registry", "format"} {
		for _, state := range []string{"counting", "open"} {
			is(count[[2]string{kind, state}], kind, state)
		}
	}
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// sample gives one value of a metric, with the values of its labels.
type sample func(value int64, labels ...string)

// state is a collector that asks once a scrape.
type state struct {
	now   func() State
	parts []part
}

type part struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	tell func(State, sample)
}

var _ prometheus.Collector = (*state)(nil)

func (s *state) add(m *Metrics, name, kind, help string, labels []string, tell func(State, sample)) {
	m.define(name, kind, help, labels)
	value := prometheus.GaugeValue
	if kind == "counter" {
		value = prometheus.CounterValue
	}
	s.parts = append(s.parts, part{prometheus.NewDesc(namespace+"_"+name, help, labels, nil), value, tell})
}

// Describe implements prometheus.Collector.
func (s *state) Describe(to chan<- *prometheus.Desc) {
	for _, p := range s.parts {
		to <- p.desc
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(to chan<- prometheus.Metric) {
	now := s.now()
	for _, p := range s.parts {
		p.tell(now, func(value int64, labels ...string) {
			to <- prometheus.MustNewConstMetric(p.desc, p.kind, float64(value), labels...)
		})
	}
}
