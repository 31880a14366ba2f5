package regtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PutBlob stores a blob, past authentication, faults and log.
func (r *Registry) PutBlob(mediaType string, content []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := r.blobs.write(d.Digest, bytes.NewReader(content)); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("store blob %s: %w", d.Digest, err)
	}
	return d, nil
}

// PutManifest stores a manifest under its digest and, where tag is not empty,
// under tag, past authentication, faults and log. It is indexed by its subject.
func (r *Registry) PutManifest(repo, tag, mediaType string, content []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	ref := tag
	if ref == "" {
		ref = d.Digest.String()
	}
	req := &http.Request{
		Method: http.MethodPut, URL: &url.URL{Path: "/v2/" + repo + "/manifests/" + ref}, ContentLength: d.Size,
		Header: http.Header{"Content-Type": {mediaType}}, Body: io.NopCloser(bytes.NewReader(content)),
	}
	features, _ := r.settings()
	features.ORASPush = true
	answer := &bufferWriter{header: http.Header{}, status: http.StatusOK}
	r.putManifest(answer, req, parsePath(req), features)
	if answer.status != http.StatusCreated {
		return ocispec.Descriptor{}, fmt.Errorf("store manifest %s in %s: status %d: %s", ref, repo, answer.status, &answer.body)
	}
	return d, nil
}

// PutJSON stores value, marshalled, as PutManifest does.
func (r *Registry) PutJSON(repo, tag, mediaType string, value any) (ocispec.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("marshal manifest: %w", err)
	}
	return r.PutManifest(repo, tag, mediaType, content)
}

// LoadLayout copies an OCI image layout directory into repo: every blob, every
// manifest in index.json with those it names, tags included. Untagged entries
// (referrers) are stored by digest. It returns the entries of index.json.
func (r *Registry) LoadLayout(repo, dir string) ([]ocispec.Descriptor, error) {
	content, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("parse layout %s: %w", dir, err)
	}
	l := layoutLoader{registry: r, repo: repo, dir: dir, done: map[digest.Digest]bool{}}
	for _, d := range index.Manifests {
		if err := l.manifest(d, d.Annotations[ocispec.AnnotationRefName]); err != nil {
			return nil, fmt.Errorf("load layout %s: %w", dir, err)
		}
	}
	return index.Manifests, nil
}

type layoutLoader struct {
	registry *Registry
	repo     string
	dir      string
	done     map[digest.Digest]bool
}

func (l *layoutLoader) path(d digest.Digest) string {
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// manifest stores the content of d after everything it names, because a
// registry may refuse an index whose manifests it does not have.
func (l *layoutLoader) manifest(d ocispec.Descriptor, tag string) error {
	content, err := os.ReadFile(l.path(d.Digest))
	if err != nil {
		return err
	}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Blobs     []ocispec.Descriptor `json:"blobs"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("parse %s: %w", d.Digest, err)
	}
	for _, child := range m.Manifests {
		if err := l.manifest(child, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	blobs := slices.Concat(m.Layers, m.Blobs)
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	for _, blob := range blobs {
		if err := l.blob(blob.Digest); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	_, err = l.registry.PutManifest(l.repo, tag, d.MediaType, content)
	return err
}

// blob copies one blob; those that the layout leaves out stay unknown.
func (l *layoutLoader) blob(d digest.Digest) error {
	if l.done[d] {
		return nil
	}
	f, err := os.Open(l.path(d))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	l.done[d] = true
	return l.registry.blobs.write(d, f)
}
