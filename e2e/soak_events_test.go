package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/regtest"
)

// soakEvent is something that happens to a node while containers read.
type soakEvent struct {
	name string
	do   func(*testing.T, *soak)
}

// soakEvents are all kinds. Each is over when do returns.
func soakEvents() []soakEvent {
	blobs := regtest.Path("/blobs/", http.MethodGet)
	fault := func(f regtest.Fault) func(*testing.T, *soak) {
		f.Match = blobs
		return func(t *testing.T, s *soak) {
			t.Helper()
			remove := s.registry.Inject(f)
			defer remove()
			s.wait(t, time.Second, 2*time.Second)
		}
	}
	return []soakEvent{
		{"kill", kill},
		{"restart", func(t *testing.T, s *soak) { t.Helper(); s.end(t, s.referee.Stop); s.begin(t) }},
		{"upgrade", upgrade},
		{"freeze", freeze},
		{"no free descriptors", exhaust},
		{"full disk", fillDisk},
		{"cold kernel", func(t *testing.T, _ *soak) { t.Helper(); dropCaches(t) }},
		{"mirror down", func(t *testing.T, s *soak) {
			t.Helper()
			s.mirrorDown.Store(true)
			defer s.mirrorDown.Store(false)
			s.wait(t, time.Second, 2*time.Second)
		}},
		{"401", fault(regtest.Fault{Status: 401})},
		{"404", fault(regtest.Fault{Status: 404})},
		{"429", fault(regtest.Fault{Status: 429, Header: http.Header{"Retry-After": {"1"}}})},
		{"500", fault(regtest.Fault{Status: 500})},
		{"dropped connections", fault(regtest.Fault{Drop: true})},
		{"truncated bodies", fault(regtest.Fault{CutAt: at(1000)})},
		{"wrong bytes", fault(regtest.Fault{Rewrite: flipEach})},
		{"ignored ranges", fault(regtest.Fault{IgnoreRange: true})},
		{"delays", fault(regtest.Fault{Latency: 300 * time.Millisecond})},
		{"hanging registry", fault(regtest.Fault{Hang: true})},
		{"slow link", fault(regtest.Fault{BytesPerSecond: 1 << 20})},
		{"announced outage", announcedOutage},
	}
}

func kill(t *testing.T, s *soak) {
	t.Helper()
	s.end(t, s.referee.Kill)
	if s.random.IntN(2) == 0 {
		dropCaches(t)
	}
	s.begin(t)
}

// upgrade puts another file in the place of the binary, as a package manager does,
// and restarts.
func upgrade(t *testing.T, s *soak) {
	t.Helper()
	data, err := os.ReadFile(s.binary)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(s.dir, fmt.Sprintf("referee-%d", s.upgrades))
	s.upgrades++
	if err := os.WriteFile(next, data, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	installed := filepath.Join(s.dir, "referee")
	if err := os.Rename(next, installed); err != nil {
		t.Fatal(err)
	}
	s.referee.Upgrade(installed)
	s.end(t, s.referee.Stop)
	s.begin(t)
}

func freeze(t *testing.T, s *soak) {
	t.Helper()
	pid := s.referee.PID()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	s.wait(t, time.Second, s.longest)
}

// exhaust takes the daemon's free descriptors away for a while.
func exhaust(t *testing.T, s *soak) {
	t.Helper()
	pid := s.referee.PID()
	var former unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &former); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: former.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &former, nil); err != nil {
			t.Error(err)
		}
	}()
	s.wait(t, time.Second, 2*time.Second)
}

// fillDisk fills the file system of the cache for a while.
func fillDisk(t *testing.T, s *soak) {
	t.Helper()
	path := filepath.Join(s.disk, "ballast")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	s.wait(t, time.Second, 2*time.Second)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// announcedOutage takes the registry away for longer than reads wait: they may
// fail, and must be right again afterwards.
func announcedOutage(t *testing.T, s *soak) {
	t.Helper()
	s.reconfigure(t, strings.Replace(s.text, soakGiveUp.String(), soakImpatience.String(), 1))
	defer s.reconfigure(t, s.text)
	began := time.Now()
	remove := s.registry.Inject(regtest.Fault{Drop: true})
	defer remove()
	dropCaches(t)
	s.wait(t, 5*soakImpatience, 6*soakImpatience)
	remove()
	s.outages = append(s.outages, outage{began, time.Now().Add(5 * time.Second)})
}

// schedule is every kind once and kills until there are as many as wanted, in the
// order that random says.
func schedule(random *rand.Rand, kills int) []soakEvent {
	kinds := soakEvents()
	events := kinds
	for range kills - 1 {
		events = append(events, kinds[0])
	}
	if kills > len(kinds) { // in the long form anything may come again
		for range kills / 2 {
			events = append(events, kinds[random.IntN(len(kinds))])
		}
	}
	random.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
	return events
}
