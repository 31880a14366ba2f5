package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// attachDriver looks at what this kernel offers each driver.
func (n *Node) attachDriver(context.Context) []Finding {
	var found []Finding
	works := ""
	for _, f := range n.Survey(n.Config.State) {
		wanted := n.Config.Attach.Driver == f.Driver || n.Config.Attach.Driver == attach.Auto && f.Driver != attach.Fanotify
		switch {
		case !wanted:
		case f.Err != nil:
			found = append(found, degraded(fmt.Sprintf("%s does not work: %v", f.Driver, f.Err), "another driver has to", driverRemedy(f.Driver)))
		case works != "":
			found = append(found, good("%s would work, too", f.Driver))
		case len(f.Limits) > 0:
			works = f.Driver
			found = append(found, degraded(f.Driver+" works, with limits", strings.Join(f.Limits, "; "), "a newer kernel, or attach.driver = \"nbd\""))
		default:
			works = f.Driver
			found = append(found, good("%s works and goes on after a crash of the daemon", f.Driver))
		}
	}
	if works == "" {
		return append(found, bad("no attach driver works", "every pull is ordinary (reason not-attachable)", "make one of the above work"))
	}
	// That a spare one does not work is no loss.
	return slices.DeleteFunc(found, func(f Finding) bool { return f.Level == Degraded && !strings.HasPrefix(f.Found, works) })
}

func driverRemedy(driver string) string {
	return fmt.Sprintf("modprobe %s, and its name into /etc/modules-load.d/referee.conf", driver)
}

// fileSystems looks for those that volumes are, and tries EROFS.
func (n *Node) fileSystems(ctx context.Context) []Finding {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return []Finding{degraded(err.Error(), "what this kernel can mount is unknown", "mount /proc")}
	}
	found := []Finding{erofsFinding(tryEROFS(ctx))}
	for name, use := range map[string]string{"ext4": "forms that other tools made are ext4 or EROFS", "overlay": "containers have no root without it"} {
		if !slices.ContainsFunc(strings.Split(string(known), "\n"), func(line string) bool { return strings.TrimPrefix(line, "nodev") == "\t"+name }) {
			found = append(found, degraded(name+" is not there, or is loaded when it is first asked for", use, "modprobe "+name))
		}
	}
	return found
}

func erofsFinding(err error) Finding {
	switch {
	case err == nil:
		return good("EROFS mounts from a file")
	case errors.Is(err, unix.ENOTBLK):
		return good("EROFS mounts through loop devices (from a file since Linux 6.12)")
	case errors.Is(err, unix.ENODEV):
		return bad("this kernel has no EROFS", "forms made by `referee convert` cannot be mounted: their pulls are ordinary", "modprobe erofs, and its name into /etc/modules-load.d/referee.conf")
	case errors.Is(err, unix.EPERM):
		return degraded("EROFS was not tried: "+err.Error(), "", "run as root")
	default:
		return bad("EROFS cannot be mounted: "+err.Error(), "forms made by `referee convert` cannot be mounted: their pulls are ordinary", "see the kernel's log")
	}
}

// tryEROFS mounts an empty file system from a file.
func tryEROFS(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "referee-doctor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	disk, target := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	if err := errors.Join(writeEmptyEROFS(ctx, disk), os.Mkdir(target, 0o700)); err != nil {
		return err
	}
	if err := unix.Mount(disk, target, "erofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	return unix.Unmount(target, unix.MNT_DETACH)
}

func writeEmptyEROFS(ctx context.Context, path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	const blockBits = 12
	layout, err := erofs.NewTree(erofs.Limits{}).Layout(erofs.LayoutOptions{Start: erofs.HeadBlocks(blockBits, 0)})
	if err != nil {
		return err
	}
	if err := layout.Write(ctx, file); err != nil {
		return err
	}
	return file.Truncate(int64(layout.End()) << blockBits)
}

// clock asks the kernel whether somebody keeps its clock right (adjtimex(2)).
func (n *Node) clock(context.Context) []Finding {
	var timex unix.Timex
	state, err := unix.Adjtimex(&timex)
	if err != nil {
		return []Finding{degraded("the clock's state: "+err.Error(), "", "")}
	}
	if state == unix.TIME_ERROR {
		return []Finding{degraded("nothing keeps the clock right", "tokens, certificates and signatures are good or not by this clock", "run a time service (systemd-timesyncd, chrony)")}
	}
	return []Finding{good("the clock is kept right: %s", time.Now().UTC().Format(time.RFC3339))}
}
