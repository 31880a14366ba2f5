package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/link"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
)

// State is what is open and known when a plan is made.
type State string

// The states.
const (
	planCold   State = "cold"   // no connection, nothing known
	planWarm   State = "warm"   // connections from a moment ago, nothing known
	planCached State = "cached" // the same image was planned a moment ago
)

// Negotiation is one plan beside what every pull asks for anyway: manifest and
// config (of an index: that, manifest and config), over the same link and in the
// same state.
type Negotiation struct {
	Scenario, Link   string
	State            State
	Anyway, Planned  time.Duration
	AnywayRequests   int
	PlannedRequests  int
	ConnectionsAdded int64 // opened for the plan, beyond those opened for the rest
	Late             bool  // the plan ran out of its time, and would have been an ordinary pull
}

// measureNegotiation makes plans in all scenarios and states over links of its
// own, in random order.
func measureNegotiation(ctx context.Context, progress io.Writer, report *Report, o options) (err error) {
	street, err := buildStreet() //nolint:contextcheck // its registries run until close
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, street.close()) }()
	type job struct {
		shop  *shop
		link  compare.Link
		state State
	}
	var jobs []job
	for _, profile := range linkProfiles {
		l, err := street.connect(ctx, profile)
		if err != nil {
			return err
		}
		report.NegotiationLinks = append(report.NegotiationLinks, l)
		for _, s := range street.shops {
			for _, state := range []State{planCold, planWarm, planCached} {
				for range o.plans {
					jobs = append(jobs, job{s, l, state})
				}
			}
		}
	}
	random := rand.New(rand.NewPCG(uint64(o.seed), 1)) //nolint:gosec // an order, not a secret
	random.Shuffle(len(jobs), func(i, k int) { jobs[i], jobs[k] = jobs[k], jobs[i] })
	for i, j := range jobs {
		sample, err := street.measure(ctx, j.shop, j.link, j.state)
		if err != nil {
			return fmt.Errorf("plan %s, %s, over %s: %w", j.shop.scenario, j.state, j.link.Name, err)
		}
		report.Negotiation = append(report.Negotiation, sample)
		if (i+1)%100 == 0 || i+1 == len(jobs) {
			fmt.Fprintf(progress, "%d of %d plans\n", i+1, len(jobs))
		}
	}
	return nil
}

// street is registries beyond links, and the clients on this side.
type street struct {
	dir        string
	registries []*regtest.Registry
	links      []*link.Link
	clients    map[string]*registry.Client // kept open, by link
	shops      []*shop
}

// connect makes the registries reachable over a new link, under names of that link.
func (s *street) connect(ctx context.Context, profile linkProfile) (compare.Link, error) {
	running, err := link.Start(ctx, profile.shape)
	if err != nil {
		return compare.Link{}, err
	}
	s.links = append(s.links, running)
	l := compare.Link{Name: profile.name, Shape: profile.shape, Kind: running.Kind()}
	if l.Measured, err = running.Measure(ctx); err != nil {
		return l, err
	}
	for i, reg := range s.registries {
		far, err := running.Forward(reg.Host()) //nolint:contextcheck // runs until close
		if err != nil {
			return l, err
		}
		dir := filepath.Join(s.dir, host(i, l))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return l, err
		}
		// The certificate is for another address; a handshake costs the same.
		text := fmt.Sprintf("server = %q\nskip_verify = true\n", "https://"+far)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
			return l, err
		}
	}
	s.clients[l.Name] = s.newClient()
	return l, nil
}

func host(i int, l compare.Link) string { return fmt.Sprintf("registry%d.%s.test", i, l.Name) }

func (s *street) newClient() *registry.Client {
	return registry.New(registry.Options{HostDirs: []string{s.dir}})
}

func (s *street) close() error {
	var errs []error
	for _, c := range s.clients {
		errs = append(errs, c.Close())
	}
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	for _, reg := range s.registries {
		errs = append(errs, reg.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// measure makes one plan and the requests of an ordinary pull, in random order.
func (s *street) measure(ctx context.Context, shop *shop, l compare.Link, state State) (Negotiation, error) {
	sample := Negotiation{Scenario: shop.scenario, Link: l.Name, State: state}
	reg := s.registries[shop.registry]
	name := host(shop.registry, l) + "/" + shop.repository
	shared := s.clients[l.Name]
	known := shop.negotiator(shared)
	if state != planCold { // opens connections as well
		if _, err := shop.plan(ctx, known, name); err != nil {
			return sample, err
		}
	}
	anyway := func() (took time.Duration, requests int, connections int64, err error) {
		client := shared
		if state == planCold {
			client = s.newClient()
			defer func() { err = errors.Join(err, client.Close()) }()
		}
		return timed(reg, func() error { return shop.fetchAnyway(ctx, client, name) })
	}
	planned := func() (took time.Duration, requests int, connections int64, err error) {
		n := known
		switch state {
		case planCold:
			client := s.newClient()
			defer func() { err = errors.Join(err, client.Close()) }()
			n = shop.negotiator(client)
		case planWarm:
			n = shop.negotiator(shared)
		}
		return timed(reg, func() error { sample.Late, err = shop.plan(ctx, n, name); return err })
	}
	var before, after int64
	steps := []func() error{
		func() (err error) { sample.Anyway, sample.AnywayRequests, before, err = anyway(); return err },
		func() (err error) { sample.Planned, sample.PlannedRequests, after, err = planned(); return err },
	}
	if rand.IntN(2) == 0 { //nolint:gosec // an order, not a secret
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return sample, err
		}
	}
	sample.ConnectionsAdded = after - before
	return sample, nil
}

// timed runs do and counts what it asked of reg.
func timed(reg *regtest.Registry, do func() error) (took time.Duration, requests int, connections int64, err error) {
	reg.ResetRequests()
	connections = reg.Connections()
	began := time.Now()
	err = do()
	took = time.Since(began)
	requests, _ = reg.Count(nil)
	return took, requests, reg.Connections() - connections, err
}

// get reads one document of a repository to its end.
func get(ctx context.Context, repo *registry.Repository, path string, accept string) error {
	resp, err := repo.Do(ctx, registry.Request{Path: path, Header: http.Header{"Accept": {accept}}, Capability: registry.Pull})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// plan makes a plan and checks that it is what the scenario is about, unless it
// was late.
func (s *shop) plan(ctx context.Context, n *negotiate.Negotiator, name string) (late bool, err error) {
	p, err := n.Plan(ctx, negotiate.Request{Reference: name + ":1", Platform: platform})
	switch {
	case err != nil:
		return false, err
	case p.Reason == reason.BudgetExceeded:
		return true, nil
	case p.Lazy() != s.lazy:
		return false, fmt.Errorf("lazy is %t, because: %s", p.Lazy(), p.Detail)
	}
	return false, nil
}
