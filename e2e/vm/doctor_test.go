package vm_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/vm"
)

// TestDoctorOnOldKernel asks the doctor about a kernel that has less, and where
// nothing else is.
func TestDoctorOnOldKernel(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		modules []string
		want    map[string]string // by check: level and a part of what it found
	}{
		"with its modules": {
			[]string{"crc32c_generic", "fuse", "loop", "nbd", "erofs", "ext4", "overlay"},
			map[string]string{
				"attach driver": "degraded: fuse works, with limits", "file systems": "good: EROFS mounts through loop devices",
				"containerd": "bad: no CRI", "daemon": "bad: it does not run",
			},
		},
		"without": {
			[]string{"ext4"},
			map[string]string{"attach driver": "bad: no attach driver works", "file systems": "bad: this kernel has no EROFS"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kernel, err := vm.FindKernel(oldKernel)
			if err != nil {
				t.Skip(err)
			}
			dir := t.TempDir()
			machine := vm.Machine{
				Kernel: kernel, Modules: tc.modules, Init: filepath.Join(dir, "init"), Binary: filepath.Join(dir, "referee"),
				Args: []string{"doctor", "--output", "json"}, Memory: 1024,
			}
			build(t, "build", "-o", machine.Init, "./init")
			build(t, "build", "-o", machine.Binary, "../../cmd/referee")
			ctx, cancel := context.WithTimeout(t.Context(), machineTimeout)
			defer cancel()
			output, err := machine.Run(ctx)
			if errors.Is(err, vm.ErrMissing) {
				t.Skip(err)
			}
			if err == nil || !strings.Contains(err.Error(), "exit status 1") {
				t.Fatalf("the doctor of a machine without containerd ends with %v\n%s", err, output)
			}
			expectFindings(t, output, tc.want)
		})
	}
}

func expectFindings(t *testing.T, output string, want map[string]string) {
	t.Helper()
	var report struct {
		Findings []struct{ Check, Level, Found string }
	}
	if err := json.Unmarshal([]byte(output), &report); err != nil {
		t.Fatalf("the doctor says %v\n%s", err, output)
	}
	for _, f := range report.Findings {
		if strings.HasPrefix(f.Level+": "+f.Found, want[f.Check]) {
			delete(want, f.Check)
		}
	}
	if len(want) > 0 {
		t.Errorf("it does not find %v\n%s", want, output)
	}
}
