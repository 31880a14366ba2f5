package attach

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock/attach/fanotify"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

// The drivers, as configuration names them. Auto stands for the first that works.
const (
	Auto     = "auto"
	FUSE     = "fuse"
	NBD      = "nbd"
	Fanotify = "fanotify"
)

// Finding is what this machine offers one driver.
type Finding struct {
	Driver string
	Err    error    // why it cannot be used; nil: it can
	Limits []string // what it cannot promise here, for people to read
}

// Survey looks at what this machine offers every driver, the preferred one
// first. dir is where drivers keep their files; it need not exist. Nothing is
// changed: a module that is not loaded is missing.
func Survey(dir string) []Finding {
	return []Finding{
		surveyFUSE(),
		{Driver: NBD, Err: nbdSupported()},
		{Driver: Fanotify, Err: fanotify.Supported(dir)},
	}
}

func surveyFUSE() Finding {
	f := Finding{Driver: FUSE, Err: canOpen("/dev/fuse")}
	var limits []string
	if !FUSEResends() {
		limits = append(limits, "reads that are under way when the daemon is killed never end: before Linux 6.9 requests are not sent again")
	}
	if err := canOpen("/dev/loop-control"); err != nil {
		if !kernelAtLeast(6, 12) {
			f.Err = errors.Join(f.Err, fmt.Errorf("before Linux 6.12 file systems are mounted from block devices: %w", err))
		} else {
			limits = append(limits, "only EROFS can be mounted: no loop devices")
		}
	}
	if f.Err == nil {
		f.Limits = limits
	}
	return f
}

// FUSEResends tells whether a read that a former process took over FUSE and
// never answered is answered by the next (FUSE_HAS_RESEND, Linux 6.9).
func FUSEResends() bool { return kernelAtLeast(6, 9) }

// nbdSupported tells why devices cannot be made, or could not be found again.
func nbdSupported() error {
	if !kernelAtLeast(5, 14) {
		return errors.New("before Linux 5.14 nbd devices do not bear identifiers: a restarted daemon could not find its own")
	}
	return nbd.Supported()
}

func canOpen(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func kernelAtLeast(major, minor int) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	return releaseAtLeast(unix.ByteSliceToString(name.Release[:]), major, minor)
}

// releaseAtLeast compares a kernel release such as "6.1.0-56-amd64".
func releaseAtLeast(release string, major, minor int) bool {
	var gotMajor, gotMinor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &gotMajor, &gotMinor); n != 2 {
		return false
	}
	return gotMajor > major || gotMajor == major && gotMinor >= minor
}
