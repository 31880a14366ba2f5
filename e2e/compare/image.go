package compare

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
)

// Image is an image in the registry with a form attached to it.
type Image struct {
	Name      string
	Tag       string
	Alone     string // its repository, where that has another name than the image
	Layers    int
	Size      int64         // bytes of its layers as an ordinary pull fetches them
	LazySize  int64         // bytes of the attached form's layers
	Converted time.Duration // by `referee convert`; 0: made by another's tool
	Unpacked  Unpacked
	program   program
}

// Unpacked is what `gzip -dc | sha256sum` of all layers, one after the other, took
// and brought.
type Unpacked struct {
	Took  time.Duration
	Bytes int64
}

// FormName is the form that the image is in, or has attached alone.
func (i Image) FormName() string {
	if i.Alone == "" {
		return i.Tag
	}
	return i.Alone[len(i.Name)+1:]
}

// Ref is the image's reference over a link.
func (i Image) Ref(l Link) string { return l.host + "/" + i.repository() + ":" + i.Tag }

func (i Image) repository() string { return cmp.Or(i.Alone, i.Name) }

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

// PublishAlone pushes a published image to a repository of its own and makes one form
// of it there with `referee convert`. A form that stands in the image is a tag.
func (b *Bed) PublishAlone(ctx context.Context, image Image, form Form) (Image, error) {
	layout, err := images.BuildTo(ctx, b.progress, image.Name)
	if err != nil {
		return Image{}, err
	}
	alone := Image{Name: image.Name, Alone: image.Name + "-" + string(form), Tag: images.Tag, program: image.program}
	if _, err := b.Registry.LoadLayout(alone.Alone, layout); err != nil {
		return Image{}, err
	}
	manifests, err := layoutManifests(layout)
	if err != nil {
		return Image{}, fmt.Errorf("read manifest of %s: %w", image.Name, err)
	}
	if form != ZstdChunked {
		return b.attach(ctx, alone, manifests[0].Layers, string(form))
	}
	alone, err = b.attach(ctx, alone, manifests[0].Layers, string(form), "--tag", string(form))
	alone.Tag = string(form)
	return alone, err
}

// Unpack measures how long it takes to unpack and hash the layers of an image of
// package images.
func (b *Bed) Unpack(ctx context.Context, name string) (u Unpacked, err error) {
	layout, err := images.BuildTo(ctx, b.progress, name)
	if err != nil {
		return u, err
	}
	manifests, err := layoutManifests(layout)
	if err != nil {
		return u, err
	}
	for _, layer := range manifests[0].Layers {
		file := filepath.Join(layout, ocispec.ImageBlobsDir, "sha256", layer.Digest.Encoded())
		began := time.Now()
		if _, err := runCommand(ctx, "sh", "-c", `gzip -dc "$1" | sha256sum`, "sh", file); err != nil {
			return u, err
		}
		u.Took += time.Since(began)
		length, err := runCommand(ctx, "sh", "-c", `gzip -dc "$1" | wc -c`, "sh", file)
		if err != nil {
			return u, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(length), 10, 64)
		if err != nil {
			return u, err
		}
		u.Bytes += n
	}
	return u, nil
}

// PublishSynthetic pushes an image of random bytes and attaches its overlaybd form.
func (b *Bed) PublishSynthetic(ctx context.Context, name string, spec regtest.ImageSpec) (Image, error) {
	pushed, err := b.Registry.PutImage(name, images.Tag, spec)
	if err != nil {
		return Image{}, err
	}
	return b.attach(ctx, Image{Name: name, Tag: images.Tag}, pushed.Manifest.Layers, "overlaybd")
}

func (b *Bed) attach(ctx context.Context, image Image, layers []ocispec.Descriptor, format string, more ...string) (Image, error) {
	began := time.Now()
	// Past the link: the publisher is elsewhere, and what it takes is not measured.
	out, err := b.Command(ctx, append([]string{"convert", b.Registry.Ref(image.repository(), image.Tag), "--to", format, "--output", "json"}, more...)...)
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
