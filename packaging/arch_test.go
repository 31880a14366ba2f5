package main

import (
	"debug/elf"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What `make package` builds for a machine says in every place which one it is for.
func TestPackagesNameTheirMachine(t *testing.T) {
	t.Parallel()
	for arch, want := range map[string]struct {
		machine  elf.Machine
		deb, rpm string
	}{
		"amd64": {elf.EM_X86_64, "amd64", "x86_64"},
		"arm64": {elf.EM_AARCH64, "arm64", "aarch64"},
	} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			r := built(t, "..", arch)
			expectMachine(t, r.file(t, "referee-linux-"+arch), want.machine)
			deb := r.file(t, "*_"+want.deb+".deb")
			if says := strings.TrimSpace(command(t, "dpkg-deb", "--field", deb, "Architecture")); says != want.deb {
				t.Errorf("the Debian package is for %q", says)
			}
			tree := t.TempDir()
			command(t, "dpkg-deb", "--extract", deb, tree)
			expectMachine(t, filepath.Join(tree, "usr/bin/referee"), want.machine)
			rpm := r.file(t, "*."+want.rpm+".rpm")
			if says := command(t, "rpm", "--query", "--queryformat", "%{ARCH}", "--package", rpm); says != want.rpm {
				t.Errorf("the RPM package is for %q", says)
			}
			if platforms := r.platforms(t); !slices.Equal(platforms, []string{"linux/" + arch}) {
				t.Errorf("the image is for %q", platforms)
			}
		})
	}
}

// expectMachine wants a static program for the machine.
func expectMachine(t *testing.T, path string, want elf.Machine) {
	t.Helper()
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	libraries, err := program.ImportedLibraries()
	if program.Machine != want || len(libraries) > 0 || err != nil {
		t.Errorf("%s is for %s and needs %q, %v", filepath.Base(path), program.Machine, libraries, err)
	}
}

// platforms are those of the image.
func (r *release) platforms(t *testing.T) (platforms []string) {
	t.Helper()
	type index struct {
		Manifests []struct {
			Digest   string
			Platform struct{ OS, Architecture string }
		}
	}
	read := func(path string) (i index) {
		text, err := os.ReadFile(filepath.Join(r.out, "image", path))
		if err == nil {
			err = json.Unmarshal(text, &i)
		}
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for _, images := range read("index.json").Manifests {
		for _, m := range read(strings.Replace("blobs/"+images.Digest, ":", "/", 1)).Manifests {
			platforms = append(platforms, m.Platform.OS+"/"+m.Platform.Architecture)
		}
	}
	return platforms
}
