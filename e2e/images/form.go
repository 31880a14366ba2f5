package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/tools"
)

// Form is another way to store an image, by the tool of another project.
type Form struct {
	Name    string // and the tag of what it makes
	Version string // of the tool: what another version has made is not used

	// Convert adds the form to a layout whose first image it is made of, and
	// returns the descriptor of the form.
	Convert func(ctx context.Context, layout string) (ocispec.Descriptor, error)
}

// BuildForm returns an OCI layout of the named image in another form, under the
// form's name as tag. Image and form are built if the cache lacks them.
func BuildForm(ctx context.Context, progress io.Writer, name string, form Form) (layoutDir string, err error) {
	source, err := BuildTo(ctx, progress, name)
	if err != nil {
		return "", err
	}
	b, err := newBuilder(progress)
	if err != nil {
		return "", err
	}
	unlock, err := tools.Lock("images")
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(b.cache, fmt.Sprintf("%s-%s-%s", filepath.Base(source), form.Name, form.Version))
	if exists(dir) {
		return dir, nil
	}
	fmt.Fprintf(progress, "images: %s as %s …\n", name, form.Name)
	err = b.atomically(dir, func(dir string) error {
		if err := linkLayout(source, dir); err != nil {
			return err
		}
		made, err := form.Convert(ctx, dir)
		if err != nil {
			return err
		}
		made.Annotations = map[string]string{ocispec.AnnotationRefName: form.Name}
		return writeIndex(dir, made)
	})
	if err != nil {
		return "", fmt.Errorf("build image %s as %s: %w", name, form.Name, err)
	}
	return dir, nil
}

// linkLayout makes a layout of the same blobs. Whoever adds to it writes new
// files: blobs have the names of their content.
func linkLayout(from, to string) error {
	blobs := filepath.Join(ocispec.ImageBlobsDir, "sha256")
	if err := os.MkdirAll(filepath.Join(to, blobs), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(from, blobs))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		err = errors.Join(err, os.Link(filepath.Join(from, blobs, entry.Name()), filepath.Join(to, blobs, entry.Name())))
	}
	for _, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		text, readErr := os.ReadFile(filepath.Join(from, name))
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, name), text, 0o644))
	}
	return err
}
