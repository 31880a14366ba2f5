package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrMissing is what a machine lacks that has no such kernel, or no qemu.
var ErrMissing = errors.New("not installed")

// Kernel is an installed kernel with its modules.
type Kernel struct {
	Release string // "6.1.0-56-amd64"
	image   string
	modules string // directory
}

// FindKernel finds an installed kernel whose release begins with version and a
// dot, as the Debian package linux-image-amd64 brings it.
func FindKernel(version string) (Kernel, error) {
	images, err := filepath.Glob("/boot/vmlinuz-" + version + ".*")
	if err != nil {
		return Kernel{}, fmt.Errorf("find kernel %s: %w", version, err)
	}
	for _, image := range images {
		release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		modules := filepath.Join("/lib/modules", release)
		if _, err := os.Stat(filepath.Join(modules, "modules.dep")); err == nil {
			return Kernel{Release: release, image: image, modules: modules}, nil
		}
	}
	return Kernel{}, fmt.Errorf("kernel %s: %w", version, ErrMissing)
}

// modulesOf returns the files of the named modules and of what they need, in the order to load them.
func (k Kernel) modulesOf(names []string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	needs := parseModulesDep(data)
	var ordered []string
	seen := make(map[string]bool)
	for _, name := range names {
		files, found := needs[name]
		if !found {
			return nil, fmt.Errorf("module %s of kernel %s: %w", name, k.Release, ErrMissing)
		}
		for _, file := range files {
			if !seen[file] {
				seen[file] = true
				ordered = append(ordered, filepath.Join(k.modules, file))
			}
		}
	}
	return ordered, nil
}

// parseModulesDep returns for each module its file after all those it needs:
// modules.dep has lines "file: needed needed", the nearest first.
func parseModulesDep(data []byte) map[string][]string {
	needs := make(map[string][]string)
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		file, rest, found := strings.Cut(lines.Text(), ":")
		if !found {
			continue
		}
		fields := strings.Fields(rest)
		files := make([]string, 0, len(fields)+1)
		for i := len(fields) - 1; i >= 0; i-- {
			files = append(files, fields[i])
		}
		name := strings.TrimSuffix(filepath.Base(file), ".ko")
		needs[strings.ReplaceAll(name, "-", "_")] = append(files, file)
	}
	return needs
}
