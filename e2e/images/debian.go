package images

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// suite is the Debian release of this machine: what its apt can fetch.
func suite(osRelease string) (string, error) {
	b, err := os.ReadFile(osRelease)
	if err != nil {
		return "", fmt.Errorf("find Debian release: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(value, `"`), nil
		}
	}
	return "", fmt.Errorf("find Debian release: %s has no VERSION_CODENAME", osRelease)
}

// bootstrap makes a Debian tree with the machine's own apt sources.
func (b *builder) bootstrap(ctx context.Context, tree string, options []string) error {
	sources, err := aptSources("/etc/apt", b.suite)
	if err != nil {
		return err
	}
	network, err := aptNetworkOptions(ctx)
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--format=dir", "--quiet", "--dpkgopt=force-unsafe-io"}
	for _, option := range network {
		args = append(args, "--aptopt="+option)
	}
	args = append(append(args, options...), b.suite, tree)
	if err := run(exec.CommandContext(ctx, "mmdebstrap", append(args, sources...)...)); err != nil {
		return err
	}
	return tidyTree(tree)
}

// tidyTree leaves out what an image has no business with: the runtime fills
// /dev, services are not started in a build, and a pod brings its resolv.conf.
func tidyTree(tree string) error {
	devices, err := filepath.Glob(filepath.Join(tree, "dev", "*"))
	if err != nil {
		return err
	}
	for _, device := range devices {
		if err := os.RemoveAll(device); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "sys", "run", "tmp", "dev", "usr/sbin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(tree, "usr", "sbin", "policy-rc.d"), []byte("#!/bin/sh\nexit 101\n"), 0o755)
}

// aptSources lists the source files that offer the release; others would need
// keys and certificates that a small tree lacks.
func aptSources(dir, suite string) ([]string, error) {
	lists, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.list"))
	modern, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.sources"))
	word := regexp.MustCompile(`(?m)^[^#\n]*\s` + regexp.QuoteMeta(suite) + `(\s|$)`)
	var found []string
	for _, path := range append(append(lists, modern...), filepath.Join(dir, "sources.list")) {
		if b, err := os.ReadFile(path); err == nil && word.Match(b) {
			found = append(found, path)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no apt source of %s below %s", suite, dir)
	}
	return found, nil
}

// aptNetworkOptions are the machine's ways of reaching its mirror (proxies,
// time checks), as "Key "value"" lines.
func aptNetworkOptions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("read apt configuration: %w", err)
	}
	var options []string
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), ";")
		for _, prefix := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-"} {
			if strings.HasPrefix(line, prefix) && !strings.HasSuffix(line, `""`) {
				options = append(options, line)
				break
			}
		}
	}
	return options, lines.Err()
}

// runOn copies the tree below and runs the script in the copy, in mount and
// process namespaces of its own, so that nothing it mounts or starts survives it.
func runOn(ctx context.Context, tree, below, script string) error {
	if below == "" {
		return fmt.Errorf("run script: no layer below")
	}
	if err := run(exec.CommandContext(ctx, "cp", "--archive", "--reflink=auto", below, tree)); err != nil {
		return err
	}
	resolv := filepath.Join(tree, "etc", "resolv.conf")
	if !exists(resolv) {
		host, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return fmt.Errorf("lend resolv.conf: %w", err)
		}
		if err := os.WriteFile(resolv, host, 0o644); err != nil {
			return fmt.Errorf("lend resolv.conf: %w", err)
		}
		defer os.Remove(resolv)
	}
	const enter = `mount --rbind /dev "$1/dev" && exec chroot "$@"`
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + filepath.Join(tree, "proc"), "sh", "-euc", enter, "enter", tree}
	if exists(filepath.Join(tree, "bin", "sh")) {
		args = append(args, "/bin/sh")
	} else {
		args = append(args, "/bin/busybox", "sh")
	}
	cmd := exec.CommandContext(ctx, "unshare", append(args, "-euc", script)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
	return run(cmd)
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		const last = 4000
		return fmt.Errorf("run %s: %w\n%s", cmd.Args[0], err, out[max(0, len(out)-last):])
	}
	return nil
}
