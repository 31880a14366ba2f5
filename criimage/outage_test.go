package criimage

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/internal/eventually"
)

const (
	failFast = 100 * time.Millisecond // a call while containerd is away
	recovery = time.Second            // from containerd's return to the first success
)

// failsFast makes calls that must fail with Unavailable at once. The median
// counts: a shared machine may delay any single one.
func failsFast(t *testing.T, b *fakeBackend, do func() error) {
	t.Helper()
	var took []time.Duration
	for range 15 {
		began := time.Now()
		err := do()
		took = append(took, time.Since(began))
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("got %v, want Unavailable", err)
		}
		if message := status.Convert(err).Message(); !strings.Contains(message, b.path) {
			t.Errorf("message %q does not name %s", message, b.path)
		}
	}
	slices.Sort(took)
	t.Logf("calls failed after %v to %v", took[0], took[len(took)-1])
	if median := took[len(took)/2]; median > failFast {
		t.Errorf("calls fail after %v, want less than %v", median, failFast)
	}
}

// recovers starts the backend and returns how soon calls work.
func recovers(t *testing.T, b *fakeBackend, do func() error) time.Duration {
	t.Helper()
	b.start(t)
	back := time.Now()
	eventually.True(t, "calls work again", func() bool { return do() == nil })
	took := time.Since(back)
	t.Logf("calls worked %v after the backend's return", took)
	return took
}

// stayAway keeps the backend down for a while, with calls going on.
func stayAway(t *testing.T, long time.Duration, do func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(long); ; {
		select {
		case <-tick.C:
			if status.Code(do()) != codes.Unavailable {
				t.Fatal("a call did not fail")
			}
		case <-end:
			return
		}
	}
}

func TestContainerdComesAndGoes(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]string{"any call": "/x.Y/Z", "pull": pullMethod} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBackend(t)
			_, front := startFront(t, b, &fakePreparer{})
			do := func() error {
				_, err := call(t.Context(), front, method, []byte{})
				return err
			}
			// Absent at start, then restarted. The outages are long enough for
			// pauses that double to grow past what is allowed; a starved machine
			// gets further chances.
			fastest := patience
			for outage := 0; outage < 2 || fastest > recovery && outage < 5; outage++ {
				failsFast(t, b, do)
				stayAway(t, 4*time.Second, do)
				fastest = min(fastest, recovers(t, b, do))
				b.stop()
				eventually.True(t, "the loss is noticed", func() bool { return do() != nil })
			}
			if fastest > recovery {
				t.Errorf("recovery took %v at best, want less than %v", fastest, recovery)
			}
		})
	}
}

// Containerd restarts while nobody calls: the first call afterwards works.
func TestRestartUnnoticedByCallers(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	s, front := startFront(t, b, nil)
	if _, err := call(t.Context(), front, "/x.Y/Z", []byte{1}); err != nil {
		t.Fatal(err)
	}
	b.stop()
	eventually.True(t, "the loss is noticed", func() bool { return s.Backend().GetState() != connectivity.Ready })
	b.start(t)
	if _, err := call(t.Context(), front, "/x.Y/Z", []byte{1}); err != nil {
		t.Errorf("first call after a restart: %v", err)
	}
}
