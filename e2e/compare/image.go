package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
)

// Image is an image in the registry with an overlaybd form attached to it.
type Image struct {
	Name      string
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
	descriptors, err := b.Registry.LoadLayout(name, layout)
	if err != nil {
		return Image{}, err
	}
	var manifest ocispec.Manifest
	text, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", descriptors[0].Digest.Encoded()))
	if err == nil {
		err = json.Unmarshal(text, &manifest)
	}
	if err != nil {
		return Image{}, fmt.Errorf("read manifest of %s: %w", name, err)
	}
	return b.attach(ctx, Image{Name: name, Tag: images.Tag, program: programs[name]}, manifest.Layers)
}

// PublishSynthetic pushes an image of random bytes and attaches its overlaybd form.
func (b *Bed) PublishSynthetic(ctx context.Context, name string, spec regtest.ImageSpec) (Image, error) {
	pushed, err := b.Registry.PutImage(name, images.Tag, spec)
	if err != nil {
		return Image{}, err
	}
	return b.attach(ctx, Image{Name: name, Tag: images.Tag}, pushed.Manifest.Layers)
}

func (b *Bed) attach(ctx context.Context, image Image, layers []ocispec.Descriptor) (Image, error) {
	began := time.Now()
	// Past the link: the publisher is elsewhere, and what it takes is not measured.
	out, err := b.Command(ctx, "convert", b.Registry.Ref(image.Name, image.Tag), "--to", "overlaybd", "--output", "json")
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

func total(layers []ocispec.Descriptor) (size int64) {
	for _, layer := range layers {
		size += layer.Size
	}
	return size
}

// program says how to run an image's program and how to know that it works.
type program struct {
	command func(port int) []string // nil: the image's own
	ready   func(ctx context.Context, c *node.Container, port int) error
}

//nolint:gochecknoglobals // a constant table
var programs = map[string]program{
	"small":  {nil, logs("ready")},
	"python": {nil, logs("ready 45")},
	"redis":  {redisCommand, redisAnswers},
}

func logs(text string) func(context.Context, *node.Container, int) error {
	return func(ctx context.Context, c *node.Container, _ int) error { return c.WaitLog(ctx, text) }
}

// redisCommand gives every container its own port, since pods are on the host's network.
func redisCommand(port int) []string {
	return []string{"/usr/bin/redis-server", "/etc/redis/redis.conf", "--port", strconv.Itoa(port)}
}

// redisAnswers asks PING until PONG comes.
func redisAnswers(ctx context.Context, _ *node.Container, port int) error {
	return poll(ctx, 2*time.Millisecond, "redis answers", func() (bool, error) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false, err
		}
		defer conn.Close()
		answer := make([]byte, len("+PONG"))
		err = errors.Join(conn.SetDeadline(time.Now().Add(time.Second)), writeString(conn, "PING\r\n"))
		if err == nil {
			_, err = conn.Read(answer)
		}
		return string(answer) == "+PONG", err
	})
}

func writeString(conn net.Conn, text string) error {
	_, err := conn.Write([]byte(text))
	return err
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
