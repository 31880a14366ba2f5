// Command init is the first process of a test machine: it mounts what a program
// expects, loads the modules listed in /modules, runs the command line in
// /command with its output on the second serial port, reports how it ended, and
// switches the machine off.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ fsType, target string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fsType, m.target, m.fsType, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	command, err := os.ReadFile("/command")
	if err != nil {
		return err
	}
	results, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	words := strings.Split(string(command), "\x00")
	program := exec.Command(words[0], words[1:]...) //nolint:gosec,noctx // the machine exists to run it, and ends with it
	program.Stdout, program.Stderr = results, results
	program.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"}
	outcome := "ok"
	if err := program.Run(); err != nil {
		outcome = err.Error()
	}
	_, err = fmt.Fprintf(results, "\nINIT: program ended: %s\n", outcome)
	return err
}

func loadModules() error {
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	for path := range bytes.Lines(list) {
		name := strings.TrimSpace(string(path))
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil {
			return fmt.Errorf("load module %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}
