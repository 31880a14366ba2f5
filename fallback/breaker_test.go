package fallback

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/reason"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// A script is a row of letters: h, f, u enter and leave healthy, faulty,
// unknown; x is refused; a dot is ten seconds. Two failures open for 30 s.
func TestBreakerStates(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"failures in a row open":                "ffx",
		"health starts the count again":         "fhfhfh",
		"unknown neither counts nor clears":     "fufx",
		"it stays open for its time":            "ff..x.h",
		"a healthy trial closes it":             "ff...hfh",
		"after that it takes as many as before": "ff...hffx",
		"a faulty trial opens it again":         "ff...fx..x.h",
		"an unknown trial leaves one to others": "ff...uuh",
		"not used for long":                     "ff........fx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &clock{now: time.Unix(1e9, 0)}
			b := newBreakers(2, 30*time.Second, c.Now)
			for i, letter := range script {
				if letter == '.' {
					c.pass(10 * time.Second)
					continue
				}
				leave, err := b.enter("key")
				if (err != nil) != (letter == 'x') {
					t.Fatalf("%s: step %d: %v", script, i, err)
				}
				switch letter {
				case 'h':
					leave(healthy, reason.None)
				case 'f':
					leave(faulty, reason.RegistryError)
				case 'u':
					leave(unknown, reason.Cancelled)
				}
			}
		})
	}
}

func TestBreakerLetsOneTrialThrough(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1e9, 0)}
	b := newBreakers(1, time.Minute, c.Now)
	leave, _ := b.enter("key")
	leave(faulty, reason.RegistryError)
	c.pass(time.Minute)

	var mu sync.Mutex
	var through []func(verdict, reason.Code)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if leave, err := b.enter("key"); err == nil {
				mu.Lock()
				defer mu.Unlock()
				through = append(through, leave)
			} else if reason.Of(err) != reason.BreakerOpen {
				t.Errorf("refused with %q", reason.Of(err))
			}
		})
	}
	all.Wait()
	if len(through) != 1 {
		t.Fatalf("%d trials at once", len(through))
	}
	through[0](healthy, reason.None)
	if _, err := b.enter("key"); err != nil {
		t.Errorf("closed, yet: %v", err)
	}
}

// Pulls that were under way when it opened fail one after another: none of
// them prolongs it.
func TestLateFailuresDoNotProlong(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1e9, 0)}
	b := newBreakers(1, time.Minute, c.Now)
	first, _ := b.enter("key")
	second, _ := b.enter("key")
	first(faulty, reason.RegistryError)
	c.pass(59 * time.Second)
	second(faulty, reason.BudgetExceeded)
	c.pass(time.Second)
	if _, err := b.enter("key"); err != nil {
		t.Errorf("after its time: %v", err)
	}
}

func TestBreakersAreBounded(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1e9, 0)}
	b := newBreakers(1, time.Hour, c.Now)
	for i := range 2 * maxBreakers {
		leave, err := b.enter(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		leave(faulty, reason.RegistryError)
		c.pass(time.Millisecond)
	}
	if len(b.state) != maxBreakers {
		t.Errorf("%d breakers are kept", len(b.state))
	}
	if _, err := b.enter(fmt.Sprint(2*maxBreakers - 1)); err == nil {
		t.Error("the latest was forgotten")
	}
	if _, err := b.enter("0"); err != nil {
		t.Errorf("the oldest was kept: %v", err)
	}
}

func TestBreakerSaysWhoWhyAndUntilWhen(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Unix(1e9, 0)}
	b := newBreakers(1, time.Minute, c.Now)
	leave, _ := b.enter("registry.example")
	leave(faulty, reason.RegistryError)
	_, err := b.enter("registry.example")
	const want = "registry.example failed 1 times in a row, last with registry-error; next try after 2001-09-09T01:47:40Z"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
}
