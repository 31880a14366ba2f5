package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/link"
)

// TestPlansAskWhatTheyNeed makes each plan once, over a short link.
func TestPlansAskWhatTheyNeed(t *testing.T) {
	t.Parallel()
	s, err := buildStreet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	l, err := s.connect(t.Context(), linkProfile{"short", link.Shape{RTT: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	added := map[string]int{nothing: 1, one: 2, carried: 1, multi: 2, fifty: 9, untagged: 2, tagged: 3, signed: 6}
	if len(s.shops) != len(scenarios) {
		t.Errorf("%d shops for %d scenarios", len(s.shops), len(scenarios))
	}
	for _, shop := range s.shops {
		for state, want := range map[State]int{planCold: added[shop.scenario], planWarm: added[shop.scenario], planCached: 0} {
			sample, err := s.measure(t.Context(), shop, l, state)
			if err != nil {
				t.Fatalf("%s, %s: %v", shop.scenario, state, err)
			}
			if got := sample.PlannedRequests - sample.AnywayRequests; got != want || sample.Late {
				t.Errorf("%s, %s: %d requests more, want %d: %+v", shop.scenario, state, got, want, sample)
			}
			if sample.Planned < l.Shape.RTT || sample.Anyway < l.Shape.RTT {
				t.Errorf("%s, %s: faster than the link: %+v", shop.scenario, state, sample)
			}
		}
	}
}

func TestReportOfNegotiation(t *testing.T) {
	t.Parallel()
	l := compare.Link{Name: "wan", Shape: link.WAN, Kind: link.TUN, Measured: link.Measurement{RTT: 50 * time.Millisecond}}
	r := &Report{NegotiationLinks: []compare.Link{l}}
	for _, planned := range []time.Duration{140, 160, 150} { // a late one is counted apart
		r.Negotiation = append(r.Negotiation, Negotiation{
			Scenario: one, Link: "wan", State: planWarm, Anyway: 100 * time.Millisecond, Planned: planned * time.Millisecond,
			AnywayRequests: 2, PlannedRequests: 4,
		})
	}
	r.Negotiation = append(r.Negotiation, Negotiation{Scenario: one, Link: "wan", State: planWarm, Planned: 2 * time.Second, Late: true})
	var out strings.Builder
	r.writeNegotiation(&out)
	want := strings.Fields("one referrer wan warm 3 1 100.0 150.0 50.0 1.0 4 2 0 met")
	found := slices.ContainsFunc(strings.Split(out.String(), "\n"), func(line string) bool { return slices.Equal(strings.Fields(line), want) })
	if !found {
		t.Errorf("no row %q in:\n%s", want, out.String())
	}
}
