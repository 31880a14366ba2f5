package images_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
)

// TestBuildForm makes a form that is the image itself.
func TestBuildForm(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("building images needs root")
	}
	ctx := t.Context()
	source, err := images.Build(ctx, "small")
	if err != nil {
		t.Fatal(err)
	}
	original := only(t, source, images.Tag)
	broken, made := errors.New("broken"), 0
	form := images.Form{Name: "same", Version: rand.Text()}

	form.Convert = func(context.Context, string) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, broken }
	if _, err := images.BuildForm(ctx, io.Discard, "small", form); !errors.Is(err, broken) {
		t.Fatalf("a conversion that fails: %v", err)
	}
	form.Convert = func(_ context.Context, layout string) (ocispec.Descriptor, error) {
		made++
		return only(t, layout, images.Tag), nil
	}
	var dir string
	for range 2 {
		if dir, err = images.BuildForm(ctx, io.Discard, "small", form); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	if made != 1 {
		t.Errorf("converted %d times, want once: what was made is kept", made)
	}
	got := only(t, dir, "same")
	if got.Digest != original.Digest {
		t.Errorf("the form is %s, want %s", got.Digest, original.Digest)
	}
	var manifest ocispec.Manifest
	readBlob(t, dir, got, &manifest)
	if _, err := os.Stat(filepath.Join(dir, "blobs", "sha256", manifest.Layers[0].Digest.Encoded())); err != nil {
		t.Errorf("a layer of the form: %v", err)
	}
}
