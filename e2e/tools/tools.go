// Package tools finds the programs that the end-to-end tests, the demo and the
// benchmarks run: both containerd versions, other projects' command lines and the
// referee binary. It builds what is missing through the Makefile, which holds the
// versions, into the checkout's .cache folder. It never looks at what is installed
// on the host. It runs no goroutines.
package tools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// EnvReferee names the environment variable that points at a ready referee
// binary; without it the checkout's cmd/referee is built.
const EnvReferee = "REFEREE_BINARY"

// Root returns the checkout: the nearest parent of the working directory that
// holds both go.mod and Makefile.
func Root() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find checkout: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "go.mod")) && exists(filepath.Join(dir, "Makefile")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find checkout: no go.mod with a Makefile above %s", wd)
		}
	}
}

// Cache returns a folder below the checkout's .cache, made if necessary.
func Cache(elem ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(append([]string{root, ".cache"}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	return dir, nil
}

// Containerd returns the folder with containerd, containerd-shim-runc-v2 and
// ctr of that version ("2.4.2"). See Program.
func Containerd(ctx context.Context, version string) (string, error) {
	return built(ctx, "containerd-"+version)
}

// Program returns the path of a single program of that version: "oras", "1.3.6".
// A version that the Makefile knows is built when it is missing, which takes
// minutes the first time.
func Program(ctx context.Context, name, version string) (string, error) {
	dir, err := built(ctx, name+"-"+version)
	return filepath.Join(dir, name), err
}

// built returns the folder of a tool, made by the Makefile if necessary.
func built(ctx context.Context, tool string) (string, error) {
	base, err := Cache("tools")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, tool)
	done := filepath.Join(dir, ".done")
	if exists(done) {
		return dir, nil
	}
	unlock, err := Lock("tools")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(done) {
		return dir, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	return dir, run(exec.CommandContext(ctx, "make", "-C", root, done), "build "+tool)
}

// Referee returns the path of a referee binary built from this checkout, or
// the one EnvReferee names. Go's build cache makes repeated calls cheap.
func Referee(ctx context.Context) (string, error) {
	if path := os.Getenv(EnvReferee); path != "" {
		return path, nil
	}
	return Build(ctx, "referee", "./cmd/referee")
}

// Build compiles one of the checkout's main packages, statically linked, to
// .cache/bin/<name> and returns its path.
func Build(ctx context.Context, name, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err := Cache("bin")
	if err != nil {
		return "", err
	}
	unlock, err := Lock("bin-" + name)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return path, run(cmd, "build "+pkg)
}

// Lock takes the checkout-wide lock of that name and waits for it, so that test
// packages that run at the same time build a thing once. It is released by the
// returned function, or when the process ends.
func Lock(name string) (unlock func(), err error) {
	dir, err := Cache("locks")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", name, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("take lock %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

func run(cmd *exec.Cmd, what string) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", what, err, out)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
