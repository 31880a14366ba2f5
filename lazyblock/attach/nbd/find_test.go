package nbd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindsDevicesByTheirIdentifier(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	for device, backend := range map[string]string{
		"nbd0": "", "nbd1": "/run/a/nbd/one\n", "nbd12": "/run/a/nbd/two.1\n", "nbd3": "/run/b/nbd/one\n", "nbdx": "/run/a/nbd/odd\n", "loop1": "/run/a/nbd/no\n",
	} {
		dir := filepath.Join(sys, device)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if backend == "" {
			continue // not connected: the kernel shows no such file
		}
		if err := os.WriteFile(filepath.Join(dir, "backend"), []byte(backend), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := find(sys, "/run/a/nbd/")
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{{1, "/run/a/nbd/one"}, {12, "/run/a/nbd/two.1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if got[1].Path() != "/dev/nbd12" {
		t.Errorf("device node is %s", got[1].Path())
	}
}
