package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/testdata"
)

// What TestSoak may be told by the environment. `make soak` asks for 100 kills.
const (
	soakKills = "SOAK_KILLS" // default 8
	soakSeed  = "SOAK_SEED"  // default: another one each time, printed
)

const (
	soakFiles = 20
	// soakGiveUp is reads.give_up_after: longer than anything that happens but an
	// announced outage, so that no other read may fail.
	soakGiveUp = 2 * time.Minute
	// soakImpatience is reads.give_up_after in an announced outage. A layer and the
	// device above it wait for so long, one after the other.
	soakImpatience = 3 * time.Second
	// soakDisk is the file system that the cache has: what it may keep fits, ballast
	// does not fit beside it.
	soakDisk = 128 << 20
	// soakKept is how many connections more than at first the daemon may keep open.
	soakKept = 8
)

// soak is a node to which things happen.
type soak struct {
	*bed

	random     *rand.Rand
	format     string // of the image
	dir, disk  string
	upgrades   int
	longest    time.Duration // of a freeze
	mirrorDown atomic.Bool
	outages    []outage

	ref        string
	containers []*node.Container
	readers    []*soakReading
	goroutines map[string]int // that the daemon began with, by who started them
	open       int            // descriptors of the daemon before anything was read
}

// outage is a time in which reads may fail, because it was too long to wait.
type outage struct{ began, ended time.Time }

// TestSoak has two containers of one image read at random, and write over it,
// while in seeded order everything happens to the node that must not hurt them: of
// a form that is decoded in small blocks, and of one whose spans are decoded whole,
// checked, and kept decoded.
func TestSoak(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"overlaybd", "soci"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			soakForm(t, format)
		})
	}
}

func soakForm(t *testing.T, format string) {
	t.Helper()
	kills, seed := soakNumber(t, soakKills, 8), uint64(soakNumber(t, soakSeed, int(time.Now().UnixNano()))) //nolint:gosec // any bits
	t.Logf("%s=%d %s=%d", soakKills, kills, soakSeed, seed)
	s := newSoak(t, seed, "")
	s.format = format
	events := schedule(s.random, kills)
	if kills > len(soakEvents()) {
		s.longest = time.Minute
	}
	s.start(t, soakFiles, seed)
	for _, event := range events {
		s.happen(t, event)
	}
	if announced := s.judge(t); announced == 0 {
		t.Error("no read failed in an outage that was longer than reads wait")
	}
	requests, fetched := s.blobRequests()
	t.Logf("registry: %d requests, %d MB", requests, fetched>>20)
	if requests < len(events) {
		t.Errorf("%d requests in %d events: the readers hardly needed the registry", requests, len(events))
	}
	s.expectNothingLeft(t)
}

// start pulls an image of so many files and has two containers of it read.
func (s *soak) start(t *testing.T, files int, seed uint64) {
	t.Helper()
	var err error
	if s.goroutines, err = s.referee.Stacks(); err != nil {
		t.Fatal(err)
	}
	s.begin(t)
	shelf := s.newShelfAs(t, testdata.Dir(t, "reference")+"/tiny", files, s.format)
	s.ref = s.throughMirror(t, shelf.ref)
	s.pullAs(t, s.ref, s.format)
	s.open = s.descriptors(t)
	s.registry.ResetRequests()
	for i := range uint64(2) {
		c := start(t, s.lazy, s.ref, "/bin/busybox", "sleep", "100000")
		s.containers = append(s.containers, c)
		s.readers = append(s.readers, readAtRandom(t, s.RootFS(c), files, seed+i))
	}
}

// happen lets an event happen, and the readers read for a moment.
func (s *soak) happen(t *testing.T, event soakEvent) {
	t.Helper()
	began := time.Now()
	event.do(t, s)
	t.Logf("%s %-20s %s", began.Format(time.TimeOnly), event.name, time.Since(began).Round(time.Millisecond))
	s.wait(t, 100*time.Millisecond, 500*time.Millisecond)
}

// expectNothingLeft removes the containers and the image, and looks at what the
// daemon still holds.
func (s *soak) expectNothingLeft(t *testing.T) {
	t.Helper()
	for _, c := range s.containers {
		removePod(t, c)
	}
	s.expectReleased(t, s.ref)
	if after := s.descriptors(t); after > s.open+soakKept {
		t.Errorf("the daemon has %d descriptors open, %d before", after, s.open)
	}
	s.expectGoroutines(t, s.goroutines)
}

// expectGoroutines ends the daemon and compares what it was doing with before.
func (s *soak) expectGoroutines(t *testing.T, before map[string]int) {
	t.Helper()
	after, err := s.referee.Stacks()
	if err != nil {
		t.Fatal(err)
	}
	more := 0
	for by, n := range after {
		switch {
		case strings.HasPrefix(by, "runtime."):
		case strings.HasPrefix(by, "net/http."), strings.HasPrefix(by, "google.golang.org/grpc."), strings.HasPrefix(by, "google.golang.org/grpc/internal/transport."):
			// Connections are counted as descriptors.
		default:
			more += max(0, n-before[by])
		}
	}
	if more > 0 {
		t.Errorf("the daemon has %d goroutines more than it began with.\nBefore:\n%v\nAfter:\n%v", more, before, after)
	}
}

// judge ends the readers and returns how many of their errors were announced.
func (s *soak) judge(t *testing.T) (announced int) {
	t.Helper()
	for i, r := range s.readers {
		announced += s.judgeReader(t, i, r.end(t))
	}
	return announced
}

// judgeReader tells what a reader has seen, fails for what it must not have, and
// returns how many errors were announced.
func (s *soak) judgeReader(t *testing.T, reader int, report soakReport) (announced int) {
	t.Helper()
	for _, e := range report.Errors {
		if slices.ContainsFunc(s.outages, func(o outage) bool { return e.Ended.After(o.began) && e.Began.Before(o.ended) }) {
			announced++
			continue
		}
		t.Errorf("reader %d, after %s: %s", reader, e.Ended.Sub(e.Began).Round(time.Millisecond), e.Text)
	}
	t.Logf("reader %d: %d reads of %d MB, %d writes, %d wrong, %d errors, of which %d in announced outages, longest wait %s from %s", reader,
		report.Reads, report.Bytes>>20, report.Writes, len(report.Wrong), len(report.Errors), announced, report.Longest.Round(time.Millisecond), report.Since.Format(time.TimeOnly))
	if report.Reads == 0 || report.Writes == 0 {
		t.Errorf("reader %d did nothing", reader)
	}
	for _, wrong := range report.Wrong {
		t.Errorf("reader %d got wrong bytes: %s", reader, wrong)
	}
	return announced
}

// newSoak starts a node; more is added to the daemon's configuration.
func newSoak(t *testing.T, seed uint64, more string) *soak {
	t.Helper()
	s := &soak{random: rand.New(rand.NewPCG(seed, 1)), format: "overlaybd", dir: t.TempDir(), disk: t.TempDir(), longest: 3 * time.Second}
	mountDisk(t, s.disk, soakDisk)
	s.bed = newBed(t, node.Options{}, fmt.Sprintf("[reads]\ngive_up_after = %q\n[cache]\ndir = %q\nmax_size = \"64MiB\"\n%s",
		soakGiveUp, filepath.Join(s.disk, "cache"), more))
	return s
}

// mountDisk mounts a file system of its own, as a node has for its cache: the
// kernel mounts a settled volume from a file of it, as it could not from tmpfs.
func mountDisk(t *testing.T, at string, size int64) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil { //nolint:gosec // these
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() { // after the node's
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
}

// throughMirror returns a reference to the same image on a host whose first
// endpoint may go down.
func (s *soak) throughMirror(t *testing.T, ref string) string {
	t.Helper()
	origin, err := url.Parse(s.registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(origin)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // every fault would be a line
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if s.mirrorDown.Load() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(mirror.Close)
	if err := s.PointHost("soak.test", node.Endpoint{URL: mirror.URL}, node.Endpoint{URL: s.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	return "soak.test" + ref[len(s.registry.Host()):]
}

// wait lets some time pass, between least and most.
func (s *soak) wait(t *testing.T, least, most time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(least + time.Duration(s.random.Int64N(int64(most-least)+1))):
	}
}

func (s *soak) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.referee.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// soakNumber is a number in the environment, or otherwise.
func soakNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
