package imagetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/internal/testdata"
)

// Reference opens the layout of the reference image and finds what tag names in it.
// Where the reference data is absent the test is skipped.
func Reference(t testing.TB, tag string) (*oci.ReadOnlyStore, ocispec.Descriptor) {
	t.Helper()
	store, err := oci.NewFromFS(context.Background(), os.DirFS(filepath.Join(testdata.Dir(t, "reference"), "tiny")))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Resolve(context.Background(), tag)
	if err != nil {
		t.Fatal(err)
	}
	return store, desc
}
