package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/referee-cri/referee/e2e/tools"
)

// Tag is the tag of each layout's image.
const Tag = "1"

// Build returns the OCI layout of the named image, built if the cache lacks it,
// which takes up to a minute or two; progress goes to standard error. It needs
// root. Builds are serialised across processes.
func Build(ctx context.Context, name string) (layoutDir string, err error) {
	return BuildTo(ctx, os.Stderr, name)
}

// BuildTo is Build with the progress written elsewhere.
func BuildTo(ctx context.Context, progress io.Writer, name string) (layoutDir string, err error) {
	recipe, ok := recipes()[name]
	if !ok {
		return "", fmt.Errorf("build image %q: unknown; known are %s", name, strings.Join(Names(), ", "))
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("build image %s: needs root", name)
	}
	b, err := newBuilder(progress)
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	unlock, err := tools.Lock("images")
	if err != nil {
		return "", err
	}
	defer unlock()
	dir, err := b.image(ctx, name, recipe)
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	return dir, nil
}

type builder struct {
	cache    string
	suite    string
	progress io.Writer
}

func newBuilder(progress io.Writer) (*builder, error) {
	cache, err := tools.Cache("images")
	if err != nil {
		return nil, err
	}
	suite, err := suite("/etc/os-release")
	if err != nil {
		return nil, err
	}
	return &builder{cache: cache, suite: suite, progress: progress}, nil
}

func (b *builder) image(ctx context.Context, name string, recipe image) (string, error) {
	dir := filepath.Join(b.cache, recipe.key(name, b.suite))
	if exists(dir) {
		return dir, nil
	}
	var stack []string
	for i, key := range keys(b.suite, recipe.layers) {
		layerDir := filepath.Join(b.cache, "layers", key)
		if err := b.layer(ctx, layerDir, stack, recipe.layers[i]); err != nil {
			return "", fmt.Errorf("layer %s: %w", recipe.layers[i].Name, err)
		}
		stack = append(stack, layerDir)
	}
	return dir, b.atomically(dir, func(dir string) error { return writeLayout(dir, stack, recipe.config) })
}

// layer makes one layer's folder: the root file system up to and including it
// (tree), its compressed blob, and what the image needs to know of it. A sparse
// layer has no tree: nothing can be built on it.
func (b *builder) layer(ctx context.Context, dir string, below []string, l layer) error {
	if exists(dir) {
		return nil
	}
	start := time.Now()
	fmt.Fprintf(b.progress, "images: %s …\n", l.Name)
	return b.atomically(dir, func(dir string) error {
		tree := filepath.Join(dir, "tree")
		parent := ""
		if len(below) > 0 {
			parent = filepath.Join(below[len(below)-1], "tree")
		}
		info, err := b.fill(ctx, dir, tree, parent, l)
		if err == nil {
			fmt.Fprintf(b.progress, "images: %s: %d MB compressed, %d MB of tar, %s\n",
				l.Name, info.Size/1e6, info.Uncompressed/1e6, time.Since(start).Round(100*time.Millisecond))
		}
		return err
	})
}

func (b *builder) fill(ctx context.Context, dir, tree, parent string, l layer) (layerInfo, error) {
	var err error
	switch {
	case l.Sparse != nil:
		return writeBlob(dir, func(w io.Writer) error { return l.Sparse.write(ctx, w) })
	case l.Bootstrap != nil:
		err = b.bootstrap(ctx, tree, l.Bootstrap)
	default:
		err = runOn(ctx, tree, parent, l.Script)
	}
	if err != nil {
		return layerInfo{}, err
	}
	return writeBlob(dir, func(w io.Writer) error { return writeDiff(ctx, w, parent, tree) })
}

// atomically lets fill make a folder under a temporary name, so that a folder in
// the cache is complete or absent.
func (b *builder) atomically(dir string, fill func(dir string) error) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if err := removeStale(parent); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(parent, stalePrefix)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(temp, 0o755), fill(temp)); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return os.Rename(temp, dir)
}

const stalePrefix = "building-"

// removeStale removes what an interrupted build has left; the caller holds the
// lock, so nobody else is building.
func removeStale(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), stalePrefix) })
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(parent, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
