package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
)

// Image is an image in the registry with a form attached to it.
type Image struct {
	Name      string // also of its repository
	Tag       string
	Layers    int
	Size      int64 // bytes of its layers as an ordinary pull fetches them
	LazySize  int64 // bytes of the attached form's layers
	Converted time.Duration
	program   program
}

// Ref is the image's reference over a link.
func (i Image) Ref(l Link) string { return l.host + "/" + i.Name + ":" + i.Tag }

// Publish builds the named image of package images, pushes it and attaches an
// overlaybd form with `referee convert`.
func (b *Bed) Publish(ctx context.Context, name string) (Image, error) {
	layout, err := images.BuildTo(ctx, b.progress, name)
	if err != nil {
		return Image{}, err
	}
	if _, err := b.Registry.LoadLayout(name, layout); err != nil {
		return Image{}, err
	}
	manifests, err := layoutManifests(layout)
	if err != nil {
		return Image{}, fmt.Errorf("read manifest of %s: %w", name, err)
	}
	return b.attach(ctx, Image{Name: name, Tag: images.Tag, program: programs[name]}, manifests[0].Layers, "overlaybd")
}

// PublishIndexed pushes a published image to a repository of its own and attaches nothing
// but tables of its layers with `referee convert`: a SOCI index.
func (b *Bed) PublishIndexed(ctx context.Context, image Image) (Image, error) {
	layout, err := images.BuildTo(ctx, b.progress, image.Name)
	if err != nil {
		return Image{}, err
	}
	indexed := Image{Name: image.Name + "-unconverted", Tag: images.Tag, program: image.program}
	if _, err := b.Registry.LoadLayout(indexed.Name, layout); err != nil {
		return Image{}, err
	}
	manifests, err := layoutManifests(layout)
	if err != nil {
		return Image{}, fmt.Errorf("read manifest of %s: %w", image.Name, err)
	}
	return b.attach(ctx, indexed, manifests[0].Layers, "soci")
}

// PublishSynthetic pushes an image of random bytes and attaches its overlaybd form.
func (b *Bed) PublishSynthetic(ctx context.Context, name string, spec regtest.ImageSpec) (Image, error) {
	pushed, err := b.Registry.PutImage(name, images.Tag, spec)
	if err != nil {
		return Image{}, err
	}
	return b.attach(ctx, Image{Name: name, Tag: images.Tag}, pushed.Manifest.Layers, "overlaybd")
}

func (b *Bed) attach(ctx context.Context, image Image, layers []ocispec.Descriptor, format string) (Image, error) {
	began := time.Now()
	// Past the link: the publisher is elsewhere, and what it takes is not measured.
	out, err := b.Command(ctx, "convert", b.Registry.Ref(image.Name, image.Tag), "--to", format, "--output", "json")
	if err != nil {
		return image, err
	}
	image.Converted = time.Since(began)
	var attached []conversion.Attached
	if err := json.Unmarshal([]byte(out), &attached); err != nil || len(attached) != 1 {
		return image, fmt.Errorf("convert %s: %d forms attached: %w", image.Name, len(attached), err)
	}
	image.Layers, image.Size, image.LazySize = len(layers), total(layers), total(attached[0].Layers)
	return image, nil
}

// Reads tells whether this Referee can read images in that format.
func (b *Bed) Reads(ctx context.Context, format string) (bool, error) {
	file := b.path("referee-format.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "version = 1\n[[policy]]\nformats = [%q]\n", format), 0o600); err != nil {
		return false, fmt.Errorf("ask what referee reads: %w", err)
	}
	said, err := runCommand(ctx, b.binary, "config", "check", "--config", file)
	return !strings.Contains(said, "reads none of "+format), err
}

func total(layers []ocispec.Descriptor) (size int64) {
	for _, layer := range layers {
		size += layer.Size
	}
	return size
}

func runCommand(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	command := exec.CommandContext(ctx, name, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// folderEmpty reports whether there is nothing in a folder, or no folder.
func folderEmpty(path string) (bool, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}
