package main

import (
	"fmt"
	"io"

	"github.com/referee-cri/referee/e2e/compare"
)

// aimPlanned: a plan may wait for one answer more than a pull waits for anyway,
// where connections are open and one form is attached.
const aimPlanned = 1.5 // round trips, so that the machine's own time has room

// plans are the samples of one row.
type plans struct {
	anyway, planned, added Durations
	requests, anywayAsked  int
	connections            int64
	late                   int // not among the others
}

func (r *Report) plansOf(scenario string, l compare.Link, state State) (p plans) {
	for _, n := range r.Negotiation {
		switch {
		case n.Scenario != scenario || n.Link != l.Name || n.State != state:
		case n.Late:
			p.late++
		default:
			p.anyway, p.planned, p.added = append(p.anyway, n.Anyway), append(p.planned, n.Planned), append(p.added, n.Planned-n.Anyway)
			p.requests, p.anywayAsked = max(p.requests, n.PlannedRequests), n.AnywayRequests
			p.connections = max(p.connections, n.ConnectionsAdded)
		}
	}
	return p
}

func (r *Report) writeNegotiation(out io.Writer) {
	if len(r.Negotiation) == 0 {
		return
	}
	for _, l := range r.NegotiationLinks {
		fmt.Fprintf(out, "link %s of the plans: %s; measured: %s (%s), TLS\n", l.Name, l.Shape, l.Measured, l.Kind)
	}
	row, flush := table(out, "What negotiation adds to the manifest and config that every pull asks for (median ms)",
		"scenario", "link", "state", "n", "late", "anyway", "planned", "added", "added round trips", "requests", "of them added", "connections added", "aim: 1 round trip")
	defer flush()
	for _, scenario := range scenarios {
		for _, l := range r.NegotiationLinks {
			for _, state := range []State{planCold, planWarm, planCached} {
				p := r.plansOf(scenario, l, state)
				trips := p.added.median().Seconds() / l.Measured.RTT.Seconds()
				aim := "-"
				if state == planWarm && (scenario == one || scenario == carried) {
					aim = verdict(trips <= aimPlanned)
				}
				row(scenario, l.Name, string(state), fmt.Sprint(len(p.added)), fmt.Sprint(p.late), millis(p.anyway), millis(p.planned), millis(p.added),
					fmt.Sprintf("%.1f", trips), fmt.Sprint(p.requests), fmt.Sprint(p.requests-p.anywayAsked), fmt.Sprint(p.connections), aim)
			}
		}
	}
}

func millis(d Durations) string { return fmt.Sprintf("%.1f", d.median().Seconds()*1000) }
