package attach

import (
	"errors"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/lazyblock/attach/fanotify"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

func TestReleaseAtLeast(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]bool{
		"6.9": true, "6.9.0": true, "6.18.44-1.fc": true, "7.0": true, "10.1": true,
		"6.1.0-56-amd64": false, "5.15.0": false, "6": false, "": false, "linux": false,
	} {
		if got := releaseAtLeast(release, 6, 9); got != want {
			t.Errorf("%q is at least 6.9: got %t", release, got)
		}
	}
}

func TestSurveyHasAFindingForEveryDriver(t *testing.T) {
	t.Parallel()
	var names []string
	for _, finding := range Survey(t.TempDir()) {
		names = append(names, finding.Driver)
		t.Logf("%s: error %v, limits %q", finding.Driver, finding.Err, finding.Limits)
		if finding.Driver == FUSE && finding.Err == nil && !FUSEResends() && len(finding.Limits) == 0 {
			t.Error("fuse does not say that reads are lost")
		}
	}
	if len(names) != 3 || names[0] != FUSE || names[1] != NBD || names[2] != Fanotify {
		t.Errorf("findings are of %q", names)
	}
}

func TestOpenRefusesWithTheReason(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{Driver: Fanotify, Dir: t.TempDir(), Log: zaptest.NewLogger(t)})
	if !errors.Is(err, fanotify.ErrUnsafe) && !errors.Is(err, fanotify.ErrUnsupported) {
		t.Errorf("fanotify: got %v", err)
	}
	if _, err := Open(t.Context(), Options{Driver: "floppy", Log: zaptest.NewLogger(t)}); err == nil {
		t.Error("an unknown driver was opened")
	}
	if errors.Is(nbd.Supported(), nbd.ErrUnsupported) {
		if _, err := Open(t.Context(), Options{Driver: NBD, Dir: t.TempDir(), Log: zaptest.NewLogger(t)}); !errors.Is(err, nbd.ErrUnsupported) {
			t.Errorf("nbd without the kernel's driver: got %v", err)
		}
	}
}

func TestOpenAutoPrefersWhatWorks(t *testing.T) {
	t.Parallel()
	opts := Options{Driver: Auto, Dir: t.TempDir(), Log: zaptest.NewLogger(t)}
	want := ""
	for _, finding := range Survey(opts.Dir) {
		if finding.Err == nil && want == "" {
			want = finding.Driver
		}
	}
	if want == "" {
		t.Skip("no driver works here")
	}
	driver, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
		if err := Unmount(opts.FUSEDir()); err != nil {
			t.Error(err)
		}
	})
	if driver.Name() != want {
		t.Errorf("got driver %s, want %s", driver.Name(), want)
	}
}
