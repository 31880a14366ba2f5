package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/tools"
)

// pauseRef names the imported pause image; no such registry exists.
const pauseRef = "node.referee.test/pause:1"

// PauseLayout writes the pause image into dir as an OCI layout with the tag "1",
// for a registry. `/pause say WORDS` makes it a tiny image to test with. Its
// config differs from that of the imported one, so that removing it from a node
// leaves the node its sandbox image.
func PauseLayout(ctx context.Context, dir string) error {
	img, err := pauseImage(ctx)
	if err != nil {
		return err
	}
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/pause"}, Labels: map[string]string{"purpose": "test"}})
	if err != nil {
		return fmt.Errorf("label pause image: %w", err)
	}
	out, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write pause layout: %w", err)
	}
	if err := out.AppendImage(img, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "1"})); err != nil {
		return fmt.Errorf("write pause layout: %w", err)
	}
	return nil
}

// importPause puts the pause image into containerd as if it had been pulled.
func (n *Node) importPause(ctx context.Context) error {
	img, err := pauseImage(ctx)
	if err != nil {
		return err
	}
	ref, err := name.NewTag(pauseRef)
	if err != nil {
		return fmt.Errorf("name pause image: %w", err)
	}
	archive := n.path("pause.tar")
	if err := tarball.WriteToFile(archive, ref, img); err != nil {
		return fmt.Errorf("write pause image: %w", err)
	}
	if _, err := n.Ctr(ctx, "images", "import", archive); err != nil {
		return fmt.Errorf("import pause image: %w", err)
	}
	// CRI learns of the image by an event.
	return n.proc.until(ctx, "CRI knows the pause image", func(ctx context.Context) error {
		img, err := n.cri.ImageStatus(ctx, pauseRef)
		if err == nil && img == nil {
			err = fmt.Errorf("%s is not listed", pauseRef)
		}
		return err
	})
}

// Ctr runs ctr against the node, in CRI's namespace, and returns its output.
func (n *Node) Ctr(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"--address", n.Socket(), "--namespace", "k8s.io"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, "ctr"), args...)
	cmd.Env = processEnv(n.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s: %w\n%s", cmd, err, out)
	}
	return string(out), nil
}

func pauseImage(ctx context.Context) (v1.Image, error) {
	binary, err := tools.Build(ctx, "pause", "./e2e/node/pause")
	if err != nil {
		return nil, err
	}
	archive, err := packOne(binary)
	if err != nil {
		return nil, fmt.Errorf("pack pause image: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("pack pause image: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("pack pause image: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("pack pause image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/pause"}
	return mutate.ConfigFile(img, config)
}

// packOne makes a tar stream of one executable.
func packOne(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o755, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
