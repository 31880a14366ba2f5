// Package imagetest makes small images, right and wrong ones, for tests of what
// converts them. It runs no goroutines.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
)

// Image is an image to be stored, with all that can be wrong about it.
type Image struct {
	Tars     [][]byte              // of the layers, bottom first
	Types    []string              // media types; "" and missing mean OCI tar+gzip
	Pack     []func([]byte) []byte // how each is compressed; missing means Gzip
	Config   map[string]any
	DiffIDs  []digest.Digest // instead of the right ones
	Manifest string          // media type
	Change   func(*ocispec.Manifest)
}

// Gzip compresses b.
func Gzip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// Zstd compresses b.
func Zstd(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)      // the defaults are valid
	defer func() { _ = w.Close() }() // it wrote to nothing
	return w.EncodeAll(b, nil)
}

// Plain leaves b as it is.
func Plain(b []byte) []byte { return b }

// Store puts the image into memory.
func (img Image) Store(t testing.TB) (*memory.Store, ocispec.Descriptor) {
	t.Helper()
	store := memory.New()
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		t.Helper()
		desc := content.NewDescriptorFromBytes(mediaType, b)
		if err := store.Push(t.Context(), desc, bytes.NewReader(b)); err != nil && !strings.Contains(err.Error(), "already exists") {
			t.Fatal(err)
		}
		return desc
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}}
	var diffIDs []digest.Digest
	for i, tarball := range img.Tars {
		mediaType, pack := ocispec.MediaTypeImageLayerGzip, Gzip
		if i < len(img.Types) && img.Types[i] != "" {
			mediaType = img.Types[i]
		}
		if i < len(img.Pack) {
			pack = img.Pack[i]
		}
		manifest.Layers = append(manifest.Layers, push(mediaType, pack(tarball)))
		diffIDs = append(diffIDs, digest.FromBytes(tarball))
	}
	if img.DiffIDs != nil {
		diffIDs = img.DiffIDs
	}
	config := map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}}
	for key, value := range img.Config {
		config[key] = value
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	manifest.Config = push(ocispec.MediaTypeImageConfig, raw)
	if img.Change != nil {
		img.Change(&manifest)
	}
	if raw, err = json.Marshal(manifest); err != nil {
		t.Fatal(err)
	}
	mediaType := img.Manifest
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	return store, push(mediaType, raw)
}

// Entry is one tar entry of a test layer.
type Entry struct {
	tar.Header
	Content []byte
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content)}
}

// Dir is a directory.
func Dir(name string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, nil}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil}
}

// Hardlink is another name of a file.
func Hardlink(name, target string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil}
}

// Tar writes entries as one layer.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.Content))
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := w.Write(e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// SparseTar is a tar with one file that is all hole, in PAX format 1.0.
func SparseTar(t testing.TB, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	sparseMap := make([]byte, 512)
	copy(sparseMap, fmt.Sprintf("1\n%d\n0\n", size))
	records := map[string]string{"major": "1", "minor": "0", "name": "hole", "realsize": fmt.Sprint(size)}
	body := ""
	for _, key := range []string{"major", "minor", "name", "realsize"} {
		record := fmt.Sprintf(" GNU.sparse.%s=%s\n", key, records[key])
		n := len(record)
		for n != len(fmt.Sprint(n))+len(record) {
			n++
		}
		body += fmt.Sprint(n) + record
	}
	// archive/tar refuses to write GNU.sparse records, so the header is made by hand.
	write := func(header *tar.Header, content []byte) {
		t.Helper()
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(body)), Format: tar.FormatUSTAR}, []byte(body))
	write(&tar.Header{Typeflag: tar.TypeReg, Name: "hole", Mode: 0o644, Size: 512, Format: tar.FormatUSTAR}, sparseMap)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = tar.TypeXHeader
	sum := 0
	copy(raw[148:156], "        ")
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return raw
}
