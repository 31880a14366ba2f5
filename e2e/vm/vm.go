package vm

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Machine says what to run and under which kernel.
type Machine struct {
	Kernel   Kernel
	Modules  []string // loaded before Command runs, with what they need
	Programs []string // of this machine, with their shared libraries, at the same paths
	Init     string   // static build of e2e/vm/init
	Binary   string   // static program to run as /program
	Args     []string
	Memory   int // MiB
}

// Run boots the machine and returns what the program wrote. It is an error if
// the program fails or the machine does not get that far; the console's last
// words are in it then. The machine ends with ctx.
func (m Machine) Run(ctx context.Context) (output string, err error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", fmt.Errorf("qemu-system-x86_64: %w", ErrMissing)
	}
	dir, err := os.MkdirTemp("", "referee-vm-")
	if err != nil {
		return "", fmt.Errorf("make directory of machine: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	initramfs, console, results := filepath.Join(dir, "initramfs"), filepath.Join(dir, "console"), filepath.Join(dir, "results")
	if err := m.writeInitramfs(ctx, initramfs); err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, qemu, //nolint:gosec // arguments are this program's
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(m.Memory),
		"-nodefaults", "-no-reboot", "-display", "none",
		"-serial", "file:"+console, "-serial", "file:"+results,
		"-kernel", m.Kernel.image, "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 mitigations=off")
	said, err := command.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	data, rerr := os.ReadFile(results)
	output, outcome, ended := strings.Cut(strings.ReplaceAll(string(data), "\r\n", "\n"), "\nINIT: program ended: ")
	if err = errors.Join(err, rerr); err != nil {
		return output, fmt.Errorf("run machine: %w\n%s%s", err, said, tail(console))
	}
	if outcome = strings.TrimSpace(outcome); !ended || outcome != "ok" {
		return output, fmt.Errorf("program in machine: %q\n%s", outcome, tail(console))
	}
	return output, nil
}

func (m Machine) writeInitramfs(ctx context.Context, path string) (err error) {
	a := newArchive()
	modules, err := m.Kernel.modulesOf(m.Modules)
	if err != nil {
		return err
	}
	for _, module := range modules {
		if err := a.copy(module); err != nil {
			return err
		}
	}
	a.add("/modules", []byte(strings.Join(modules, "\n")))
	for source, target := range map[string]string{m.Init: "/init", m.Binary: "/program"} {
		data, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("read program: %w", err)
		}
		a.add(target, data)
	}
	a.add("/command", []byte(strings.Join(append([]string{"/program"}, m.Args...), "\x00")))
	a.addDir("/dev")
	a.addDir("/sys")
	for _, program := range m.Programs {
		if err := a.copyProgram(ctx, program); err != nil {
			return err
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	zip, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return errors.Join(a.writeTo(zip), zip.Close())
}

// sharedLibrary is a path in the output of ldd.
var sharedLibrary = regexp.MustCompile(`/\S+\.so\S*`)

// copyProgram puts a program and its shared libraries into the archive.
func (a *archive) copyProgram(ctx context.Context, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("program %s: %w", name, ErrMissing)
	}
	libraries, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return fmt.Errorf("find libraries of %s: %w", name, err)
	}
	for _, file := range append(sharedLibrary.FindAllString(string(libraries), -1), path) {
		if err := a.copy(file); err != nil {
			return err
		}
	}
	return nil
}

// tail returns the end of a file.
func tail(path string) string {
	const length = 4 << 10
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-length):])
}
