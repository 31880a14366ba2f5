package attach

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// scripted is a driver that notes what it is asked for.
type scripted struct{ asked []string }

func (*scripted) Name() string { return "scripted" }

func (s *scripted) Attach(context.Context, string, lazyblock.Volume, string) error {
	s.asked = append(s.asked, "attach")
	return nil
}

func (s *scripted) Adopt(string, lazyblock.Volume, string) (bool, error) {
	s.asked = append(s.asked, "adopt")
	return true, nil
}

func (s *scripted) Adopted() { s.asked = append(s.asked, "adopted") }

func (s *scripted) Detach(string, string) error {
	s.asked = append(s.asked, "detach")
	return nil
}

func (s *scripted) Close() error {
	s.asked = append(s.asked, "close")
	return nil
}

// TestChosenLooksAgain has no driver at first: volumes are refused with the cause
// until one appears, and looking is not repeated at every pull.
func TestChosenLooksAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver, missing, looks := &scripted{}, errors.New("no such device"), 0
		c := &Chosen{open: func(context.Context) (Driver, error) {
			looks++
			if missing != nil {
				return nil, missing
			}
			return driver, nil
		}}
		for range 3 {
			err := c.Attach(t.Context(), "v", lazyblock.Volume{}, "target")
			if !errors.Is(err, missing) || reason.Of(err) != reason.NotAttachable {
				t.Errorf("without a driver: got %v (%s)", err, reason.Of(err))
			}
		}
		if adopted, err := c.Adopt("v", lazyblock.Volume{}, "target"); adopted || err == nil {
			t.Errorf("without a driver a volume is adopted: %t, %v", adopted, err)
		}
		c.Adopted()
		if err := c.Detach("v", t.TempDir()); err != nil {
			t.Errorf("without a driver nothing can be detached: %v", err)
		}
		if looks != 1 || c.Name() != "none" {
			t.Errorf("looked %d times for a driver that is %q", looks, c.Name())
		}
		missing = nil
		if err := c.Ready(); err == nil {
			t.Error("looked again at once")
		}
		time.Sleep(lookAgain) //nolint:forbidigo // the bubble's clock
		if err := c.Ready(); err != nil || c.Name() != "scripted" {
			t.Errorf("a driver appeared, and there is %q: %v", c.Name(), err)
		}
		for name, call := range map[string]func() error{
			"attach": func() error { return c.Attach(t.Context(), "v", lazyblock.Volume{}, "target") },
			"adopt":  func() error { _, err := c.Adopt("v", lazyblock.Volume{}, "target"); return err },
			"detach": func() error { return c.Detach("v", "target") },
		} {
			if err := call(); err != nil || driver.asked[len(driver.asked)-1] != name {
				t.Errorf("%s: driver was asked for %q: %v", name, driver.asked, err)
			}
		}
		if err := c.Close(); err != nil || driver.asked[len(driver.asked)-1] != "close" {
			t.Errorf("close: driver was asked for %q: %v", driver.asked, err)
		}
		if err := c.Ready(); err == nil || looks != 2 {
			t.Errorf("after Close a driver is looked for (%d looks): %v", looks, err)
		}
	})
}

// TestChosenFindsADriverLate puts in the way of the FUSE directory what a person
// may: it is found out, and over once that is gone.
func TestChosenFindsADriverLate(t *testing.T) {
	t.Parallel()
	if finding := surveyFUSE(); finding.Err != nil {
		t.Skipf("fuse does not work here: %v", finding.Err)
	}
	opts := Options{Driver: FUSE, Dir: t.TempDir(), Log: zaptest.NewLogger(t)}
	if err := os.WriteFile(opts.FUSEDir(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Choose(t.Context(), opts)
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), Unmount(opts.FUSEDir())); err != nil {
			t.Error(err)
		}
	})
	if err := c.Ready(); err == nil || c.Name() != "none" {
		t.Fatalf("driver %q serves a file: %v", c.Name(), err)
	}
	if err := os.Remove(opts.FUSEDir()); err != nil {
		t.Fatal(err)
	}
	c.looked = time.Now().Add(-lookAgain)
	if err := c.Ready(); err != nil || c.Name() != FUSE {
		t.Fatalf("driver is %q: %v", c.Name(), err)
	}
}
