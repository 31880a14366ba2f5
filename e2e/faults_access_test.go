package e2e_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
)

// byReferee tells Referee's requests from containerd's.
func byReferee(e regtest.Entry) bool { return strings.HasPrefix(e.UserAgent, "referee") }

// expectLazy pulls the image, which must become lazy, and starts a container.
func (c *trial) expectLazy(t *testing.T) *node.Container {
	t.Helper()
	started := time.Now()
	if _, err := c.lazy.Pull(t.Context(), c.ref, c.auth); err != nil {
		t.Fatalf("pull: %v", err)
	}
	if entry := c.explain(t, c.ref, started); entry.Outcome != fallback.Lazy {
		t.Fatalf("pull was %s (%s: %s), want it lazy", entry.Outcome, entry.Reason, entry.Sentence)
	}
	c.expectToldOnce(t)
	return c.run(t, c.ref)
}

// release removes container and image, of which nothing may stay.
func (c *trial) release(t *testing.T, container *node.Container) {
	t.Helper()
	if err := container.StopRemove(t.Context()); err != nil {
		t.Error(err)
	}
	c.expectReleased(t, c.ref)
}

// expectFetching lets the container read, which must take requests to the registry.
func (c *trial) expectFetching(t *testing.T, container *node.Container, path string) {
	t.Helper()
	c.registry.ResetRequests()
	c.expectSums(t, container, path)
	if n, _ := c.registry.Count(byReferee); n == 0 {
		t.Errorf("%s was read without a request: nothing was tested", path)
	}
}

// TestAccess pulls lazily from registries that want credentials, and from those
// that send readers elsewhere.
func TestAccess(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{}, "")
	robot := func(kind regtest.AuthKind) regtest.Auth {
		return regtest.Auth{Kind: kind, Username: "robot", Password: "secret"}
	}
	anyone := robot(regtest.AuthToken)
	anyone.Anonymous = true
	for name, tc := range map[string]struct {
		auth     regtest.Auth
		redirect bool
	}{
		"basic":              {robot(regtest.AuthBasic), false},
		"token":              {robot(regtest.AuthToken), false},
		"token, redirected":  {robot(regtest.AuthToken), true},
		"token for everyone": {anyone, false},
		"redirected":         {regtest.Auth{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := g.newTrial(t)
			c.attach(t, c.stock(t))
			c.registry.SetAuth(tc.auth)
			c.registry.Configure(func(f *regtest.Features) { f.RedirectBlobs = tc.redirect })
			if tc.auth.Kind != regtest.AuthNone && !tc.auth.Anonymous {
				c.expectRefused(t)
				c.auth = &runtime.AuthConfig{Username: tc.auth.Username, Password: tc.auth.Password}
			}
			container := c.expectLazy(t)
			c.registry.RevokeTokens()
			c.registry.ExpireURLs()
			c.expectFetching(t, container, "/data/random.bin")
			c.expectSums(t, container, sample...)
			c.release(t, container)
		})
	}
}

// expectRefused pulls without credentials: that has to fail as it does without
// Referee.
func (c *trial) expectRefused(t *testing.T) {
	t.Helper()
	_, want := c.CRI().Pull(t.Context(), c.ref, nil)
	started := time.Now()
	_, got := c.lazy.Pull(t.Context(), c.ref, nil)
	if want == nil || got == nil || status.Code(got) != status.Code(want) || got.Error() != want.Error() {
		t.Errorf("without credentials a pull fails with\n%v, through Referee with\n%v", want, got)
	}
	entry := c.explain(t, c.ref, started)
	if entry.Outcome != fallback.Ordinary || entry.Reason != reason.Unauthorized || entry.Forward.Error == "" {
		t.Errorf("journal: %+v", entry)
	}
	c.logged = len(c.referee.Log())
}

// TestRestraint pulls where Referee has to keep out of the way: images that the
// configuration names, registries that have just failed.
func TestRestraint(t *testing.T) {
	t.Parallel()
	const openFor = 4 * time.Second
	g := newGround(t, node.Options{}, `disabled = ["127.0.0.1:*/tiny:off"]
[pull]
negotiate_timeout = "`+negotiateTimeout.String()+`"
recheck_after = "0s"
[breaker]
failures = 2
open_for = "`+openFor.String()+`"
`)
	t.Run("disabled", func(t *testing.T) {
		c := g.newTrial(t)
		c.attach(t, c.stock(t))
		if _, err := c.registry.PutManifest("tiny", "off", c.image.descriptor.MediaType, c.image.bytes); err != nil {
			t.Fatal(err)
		}
		c.ref = c.registry.Ref("tiny", "off")
		c.expectOrdinary(t, outcome{reason: reason.Disabled, says: "127.0.0.1:*/tiny:off"})
		if n, _ := c.registry.Count(byReferee); n > 0 {
			t.Errorf("Referee asked the registry %d times", n)
		}
	})
	t.Run("breaker", func(t *testing.T) {
		c := g.newTrial(t)
		c.attach(t, c.stock(t))
		repair := c.registry.Inject(regtest.Fault{Match: regtest.Path("/referrers/"), Hang: true})
		for range 2 {
			if entry := c.pull(t, c.ref, fallback.Ordinary); entry.Reason != reason.BudgetExceeded {
				t.Fatalf("a silent registry gives %s: %s", entry.Reason, entry.Sentence)
			}
			if err := c.lazy.Remove(t.Context(), c.ref); err != nil {
				t.Fatal(err)
			}
		}
		opened := time.Now()
		c.registry.ResetRequests()
		c.logged = len(c.referee.Log())
		c.expectOrdinary(t, outcome{reason: reason.BreakerOpen, says: "failed 2 times in a row, last with budget-exceeded", within: negotiateTimeout / 2})
		if n, _ := c.registry.Count(byReferee); n > 0 {
			t.Errorf("Referee asked a registry that it leaves alone %d times", n)
		}
		repair()
		<-time.After(time.Until(opened.Add(openFor)))
		c.logged = len(c.referee.Log())
		c.release(t, c.expectLazy(t))
	})
}
