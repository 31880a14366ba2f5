package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/referee-cri/referee/e2e/tools"
)

// Tree returns a small Debian system with packages installed, made if the cache
// lacks it, which takes a minute or two. It is shared: put an overlay over it. It
// needs root. Builds are serialised across processes.
func Tree(ctx context.Context, packages ...string) (dir string, err error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("build system of %s: needs root", strings.Join(packages, ", "))
	}
	b, err := newBuilder(os.Stderr)
	if err != nil {
		return "", fmt.Errorf("build system: %w", err)
	}
	unlock, err := tools.Lock("images")
	if err != nil {
		return "", err
	}
	defer unlock()
	dir = filepath.Join(b.cache, "trees", b.suite+"-"+strings.Join(packages, "-"))
	if exists(dir) {
		return dir, nil
	}
	err = b.atomically(dir, func(dir string) error {
		return b.bootstrap(ctx, dir, []string{"--variant=minbase", "--include=" + strings.Join(packages, ",")})
	})
	if err != nil {
		return "", fmt.Errorf("build system of %s: %w", strings.Join(packages, ", "), err)
	}
	return dir, nil
}
