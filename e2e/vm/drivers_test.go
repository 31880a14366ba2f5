package vm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/vm"
)

// oldKernel is that of Debian 12: file systems are mounted from block devices
// only, and FUSE requests are never sent again.
const oldKernel = "6.1"

// machineTimeout bounds a machine's whole life. Mostly it takes a minute.
const machineTimeout = 5 * time.Minute

// TestDriversOnOldKernel runs the conformance suite of the attach drivers.
func TestDriversOnOldKernel(t *testing.T) {
	t.Parallel()
	kernel, err := vm.FindKernel(oldKernel)
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	machine := vm.Machine{
		Kernel: kernel,
		// crc32c_generic: libcrc32c, which erofs and ext4 need, asks for it by another name.
		Modules:  []string{"crc32c_generic", "fuse", "loop", "nbd", "erofs", "ext4"},
		Programs: []string{"mkfs.erofs", "mkfs.ext4"},
		Init:     filepath.Join(dir, "init"),
		Binary:   filepath.Join(dir, "attach.test"),
		Args:     []string{"-test.v", "-test.run=TestFUSE|TestNBD|TestSurvey", "-test.timeout=4m"},
		Memory:   1024,
	}
	build(t, "build", "-o", machine.Init, "./init")
	build(t, "test", "-c", "-o", machine.Binary, "../../lazyblock/attach")
	ctx, cancel := context.WithTimeout(t.Context(), machineTimeout)
	defer cancel()
	output, err := machine.Run(ctx)
	t.Log(output)
	if errors.Is(err, vm.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"FUSEDriver", "NBDDriver", "NBDServerKilled"} {
		if !strings.Contains(output, "--- PASS: Test"+driver+" ") {
			t.Errorf("Test%s did not pass", driver)
		}
	}
	for line := range strings.Lines(output) {
		_, skipped, found := strings.Cut(line, "--- SKIP: ")
		if found && !notPromised.MatchString(skipped) {
			t.Errorf("skipped: %s", skipped)
		}
	}
}

// notPromised is the only part of the suite that may be left out.
var notPromised = regexp.MustCompile(`^TestFUSEDriver/\w+/answers_a_read_that_the_former_driver_took `)

// build runs the go command for a static binary.
func build(t *testing.T, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", args...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, out)
	}
}
