package formattest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"

	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
)

// Image is a form with all its blobs in memory.
type Image struct {
	Layers []Blob // bottom first
	Tables []Blob
}

// Blob is a blob with what the manifest says of it.
type Blob struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// Reference reads the layers of an image of the reference data: folder is the OCI
// layout, tag the image in it.
func Reference(t testing.TB, folder, tag string) []Blob {
	t.Helper()
	ctx := context.Background()
	store, err := oci.NewFromFS(ctx, os.DirFS(filepath.Join(testdata.Dir(t, "reference"), folder)))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.Resolve(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	successors, err := content.Successors(ctx, store, desc)
	if err != nil {
		t.Fatal(err)
	}
	var blobs []Blob
	for _, d := range successors {
		if !isLayer(d) {
			continue
		}
		data, err := content.FetchAll(ctx, store, d)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, Blob{d, data})
	}
	return blobs
}

// Layers reads the layers, of whatever type, of a manifest in the reference data's
// first layout: the image, or what is attached to it, which no tag names.
func Layers(t testing.TB, manifest digest.Digest) []Blob {
	t.Helper()
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	read := func(d digest.Digest) []byte {
		data, err := os.ReadFile(testdata.Blob(layout, d))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(read(manifest), &m); err != nil {
		t.Fatal(err)
	}
	blobs := make([]Blob, len(m.Layers))
	for i, d := range m.Layers {
		blobs[i] = Blob{d, read(d.Digest)}
	}
	return blobs
}

func isLayer(d ocispec.Descriptor) bool {
	switch d.MediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
		return true
	default:
		return false
	}
}

// TinyTrees are the recorded trees of the prefixes of the reference image.
func TinyTrees(t testing.TB) []treecmp.Tree {
	t.Helper()
	trees := make([]treecmp.Tree, 4)
	for i := range trees {
		name := "tiny.tree.jsonl"
		if i+1 < len(trees) {
			name = fmt.Sprintf("tiny.prefix%d.tree.jsonl", i+1)
		}
		trees[i] = treecmp.Recorded(t, name)
	}
	return trees
}

// CountsWhiteout is in the recorded trees themselves.
var CountsWhiteout = treecmp.Ignore{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "the recording overlayfs still counts a whited-out name"}

// Form is the whole form, in memory, as a volume named id.
func (i Image) Form(id string) lazyblock.Form {
	form := i.whole(inMemory)
	form.ID = id
	return form
}

// form is the form of the first n layers, each blob put through wrap.
func (i Image) form(n int, wrap func(index int, data []byte) lazyblock.RangeReader) lazyblock.Form {
	form := lazyblock.Form{ID: "formattest"}
	index := 0
	open := func(blobs []Blob) []lazyblock.FormBlob {
		opened := make([]lazyblock.FormBlob, len(blobs))
		for j, blob := range blobs {
			opened[j] = lazyblock.FormBlob{RangeReader: wrap(index, blob.Data), Descriptor: blob.Descriptor}
			index++
		}
		return opened
	}
	form.Layers = open(i.Layers[:n])
	form.Tables = open(i.Tables)
	return form
}

// whole is the form of all layers.
func (i Image) whole(wrap func(index int, data []byte) lazyblock.RangeReader) lazyblock.Form {
	return i.form(len(i.Layers), wrap)
}

func inMemory(_ int, data []byte) lazyblock.RangeReader { return lazyblock.InMemory(data) }
