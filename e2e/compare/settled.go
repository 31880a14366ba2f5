package compare

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/referee-cri/referee/e2e/node"
)

// eager completes a form at once, and settles it.
const eager = `[completion]
rate = "10GiB"
delay = "100ms"
spare_disk = "0%"
`

// Settled pulls an image lazily and starts a container of it, waits until the form
// is whole and mounted from a local file, calls inside with a container that is
// made after that, and removes everything again.
func (b *Bed) Settled(ctx context.Context, image Image, l Link, inside func(*node.Container) error) error {
	b.Referee.Reconfigure(b.settings() + eager)
	defer b.Referee.Reconfigure(b.settings())
	if err := b.chill(ctx); err != nil {
		return err
	}
	_, err := b.Run(ctx, Lazy, image, l, func(*node.Container, int) error {
		if err := poll(ctx, 100*time.Millisecond, "the image has settled", b.mountedFromCache); err != nil {
			return err
		}
		return b.another(ctx, image, l, inside)
	})
	return err
}

// mountedFromCache reports whether a volume is mounted from a file of the cache.
func (b *Bed) mountedFromCache() (bool, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(b.VolumesDir()))
	for _, mount := range mounts {
		if strings.HasPrefix(mount.Source, b.path("referee-root", "cache")+string(filepath.Separator)) {
			return true, nil
		}
	}
	return false, err
}

// another runs a container of an image that is on the node already.
func (b *Bed) another(ctx context.Context, image Image, l Link, inside func(*node.Container) error) (err error) {
	b.port++
	pod, err := b.Lazy.RunPod(ctx, image.Name+"-again")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanly(ctx, pod.Remove)) }()
	var command []string
	if image.program.command != nil {
		command = image.program.command(b.port)
	}
	container, err := pod.Create(ctx, image.Ref(l), command)
	if err != nil {
		return fmt.Errorf("another container: %w", err)
	}
	if err := container.Start(ctx); err != nil {
		return fmt.Errorf("another container: %w", err)
	}
	return inside(container)
}
