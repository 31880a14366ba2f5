package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Leaks lists what still belongs to a folder: processes started for it, mounts
// in it or on it, loop devices over its files. Empty after a clean Stop; the
// folder need not exist any more. It looks at nothing that belongs to others,
// so tests may run side by side.
func Leaks(dir string) []string {
	var left []string
	for _, p := range processesOf(dir) {
		left = append(left, fmt.Sprintf("process %d %s", p.pid, p.what))
	}
	mounts, err := mountsBelow(dir)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, point := range mounts {
		left = append(left, "mount "+point)
	}
	for device, file := range loopsOver(dir) {
		left = append(left, fmt.Sprintf("loop device %s over %s", device, file))
	}
	return left
}

type foundProcess struct {
	pid  int
	what string
}

// processesOf finds processes whose command line, environment, working folder,
// root or cgroup names the folder or one of its containers; never ourselves.
func processesOf(dir string) []foundProcess {
	pids, _ := filepath.Glob("/proc/[0-9]*")
	containers := containerIDs(dir)
	var found []foundProcess
	for _, proc := range pids {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || dead(proc) {
			continue
		}
		if belongs(proc, dir, containers) {
			cmdline, _ := os.ReadFile(proc + "/cmdline")
			found = append(found, foundProcess{pid, strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))})
		}
	}
	return found
}

func belongs(proc, dir string, containers []string) bool {
	cgroup, _ := os.ReadFile(proc + "/cgroup")
	for _, id := range containers {
		if bytes.Contains(cgroup, []byte(id)) {
			return true
		}
	}
	environ, _ := os.ReadFile(proc + "/environ")
	return bytes.Contains(append(environ, 0), []byte(envNode+"="+dir+"\x00"))
}

// dead: a zombie holds nothing; its parent has yet to look at it.
func dead(proc string) bool {
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return true
	}
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return ok && bytes.HasPrefix(rest, []byte("Z"))
}

// containerIDs are the containers that have a task: the names of their bundles.
func containerIDs(dir string) []string {
	bundles, _ := filepath.Glob(filepath.Join(dir, "state", "io.containerd.runtime.v2.task", "*", "*"))
	ids := make([]string, 0, len(bundles))
	for _, bundle := range bundles {
		ids = append(ids, filepath.Base(bundle))
	}
	return ids
}

// deleteCgroups removes what runc would have removed: the cgroups and runtime
// state of containers whose shim was killed.
func deleteCgroups(dir string) {
	for _, id := range containerIDs(dir) {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io/" + id)
		unified, _ := filepath.Glob("/sys/fs/cgroup/k8s.io/" + id)
		for _, group := range append(groups, unified...) {
			_ = os.Remove(group)
		}
		_ = os.RemoveAll("/run/containerd/runc/k8s.io/" + id)
	}
}

// shimSockets are outside the node's folder, named by a hash; the bundles tell.
func shimSockets(dir string) []string {
	var sockets []string
	for _, name := range []string{"address", "bootstrap.json"} {
		files, _ := filepath.Glob(filepath.Join(dir, "state", "io.containerd.runtime.v2.task", "*", "*", name))
		for _, file := range files {
			b, _ := os.ReadFile(file)
			if _, rest, ok := strings.Cut(string(b), "unix://"); ok {
				if end := strings.IndexAny(rest, "\"\n"); end >= 0 {
					rest = rest[:end]
				}
				sockets = append(sockets, rest)
			}
		}
	}
	slices.Sort(sockets)
	return slices.Compact(sockets)
}

func inside(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// mountsBelow lists mount points in the folder, in the order they were mounted.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !inside(dir, m.Mountpoint), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	points := make([]string, 0, len(infos))
	for _, info := range infos {
		points = append(points, strings.TrimSuffix(info.Mountpoint, "//deleted"))
	}
	return points, nil
}

// abortFUSE ends the FUSE connections mounted in the folder, so that nobody
// stays stuck on a server that does not answer.
func abortFUSE(dir string) error {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !inside(dir, m.Mountpoint) || !strings.HasPrefix(m.FSType, "fuse"), false
	})
	if err != nil {
		return fmt.Errorf("list FUSE mounts: %w", err)
	}
	if len(infos) == 0 {
		return nil
	}
	const control = "/sys/fs/fuse/connections"
	if mounted, err := mountinfo.Mounted(control); err == nil && !mounted {
		if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount FUSE control file system: %w", err)
		}
	}
	for _, info := range infos {
		// The connection's number is the device number of the file system.
		abort := filepath.Join(control, strconv.FormatUint(unix.Mkdev(uint32(info.Major), uint32(info.Minor)), 10), "abort")
		if err := os.WriteFile(abort, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("abort FUSE connection of %s: %w", info.Mountpoint, err)
		}
	}
	return nil
}

// loopsOver maps loop devices to the files in the folder that back them.
func loopsOver(dir string) map[string]string {
	found := make(map[string]string)
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range backing {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // detached meanwhile
		}
		file := strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)")
		if inside(dir, file) {
			found["/dev/"+strings.Split(path, "/")[3]] = file
		}
	}
	return found
}

func detachLoops(dir string) error {
	var errs []error
	for device, file := range loopsOver(dir) {
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("detach loop device over %s: %w", file, err))
			continue
		}
		err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.ENXIO) {
			errs = append(errs, fmt.Errorf("detach loop device over %s: %w", file, err))
		}
	}
	return errors.Join(errs...)
}
