package interop_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/tools"
)

// Versions of the programs, as the Makefile builds them.
const (
	orasVersion   = "1.3.6"
	cosignVersion = "3.1.3"
)

// cosignPassword encrypts the private keys that cosign makes.
const cosignPassword = "correct horse"

// programTime bounds one run of a program.
const programTime = 2 * time.Minute

// program is a command line of another project, with a home of its own. Whatever
// it asks of another machine is sent to a proxy that is not there.
type program struct {
	path string
	dir  string // its home and working directory
}

func newOras(t *testing.T) program { t.Helper(); return newProgram(t, "oras", orasVersion) }

func newCosign(t *testing.T) program { t.Helper(); return newProgram(t, "cosign", cosignVersion) }

func newProgram(t *testing.T, name, version string) program {
	t.Helper()
	path, err := tools.Program(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	return program{path, t.TempDir()}
}

// try runs the program and returns what it prints.
func (p program) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Dir = p.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TZ=UTC", "HOME=" + p.dir, "DOCKER_CONFIG=" + p.dir, "TUF_ROOT=" + p.dir,
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "COSIGN_PASSWORD=" + cosignPassword,
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", cmd, err, stderr.String())
	}
	return stdout.String(), nil
}

// run is try for what must succeed.
func (p program) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
