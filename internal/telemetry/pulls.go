package telemetry

import (
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
)

// The ways of a pull, as the label "mode" has them.
const (
	modeLazy    = "lazy"
	modeFull    = "full"
	modePresent = "present"
)

// Pull counts a pull that has ended; see fallback.Options.Settled.
func (m *Metrics) Pull(e *fallback.Entry) {
	mode, format := modeFull, ""
	switch {
	case e.Outcome == fallback.Lazy:
		mode, format = modeLazy, knownFormat(e.Format)
	case e.Reason == reason.AlreadyPresent:
		mode = modePresent
	default:
		m.fallbacks.WithLabelValues(string(knownReason(e.Reason))).Inc()
	}
	result := "ok"
	if e.Forward == nil || e.Forward.Error != "" {
		result = "error"
	}
	m.pulls.WithLabelValues(mode, format, result).Inc()
	m.pullTook.WithLabelValues(mode).Observe(float64(e.Steps.Prepare + e.Steps.Forward))
	for _, step := range e.Steps.List() {
		if step.Took > 0 {
			m.stepTook.WithLabelValues(step.Name).Observe(float64(step.Took))
		}
	}
}

// knownFormat keeps the label's values few: a format's name comes from our own
// readers, but through a journal entry.
func knownFormat(format string) string {
	switch format {
	case "overlaybd", "turbooci", "estargz", "zstdchunked", "soci", "nydus", "erofs", "disk":
		return format
	default:
		return "other"
	}
}

func knownReason(code reason.Code) reason.Code {
	if reason.Known(code) {
		return code
	}
	return reason.Internal
}
