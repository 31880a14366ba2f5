package regtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// blobStore keeps blobs as files named by digest, shared by all repositories.
// go-containerregistry verifies digests while it hands uploads over.
type blobStore struct{ dir string }

var (
	_ ggcr.BlobHandler       = (*blobStore)(nil)
	_ ggcr.BlobStatHandler   = (*blobStore)(nil)
	_ ggcr.BlobPutHandler    = (*blobStore)(nil)
	_ ggcr.BlobDeleteHandler = (*blobStore)(nil)
)

func (s *blobStore) path(d digest.Digest) string {
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded())
}

// Stat returns the size of a blob.
func (s *blobStore) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(s.path(digest.Digest(h.String())))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ggcr.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Get opens a blob.
func (s *blobStore) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	return s.open(digest.Digest(h.String()))
}

func (s *blobStore) open(d digest.Digest) (*os.File, error) {
	f, err := os.Open(s.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ggcr.ErrNotFound
	}
	return f, err
}

// Put stores a blob; rc returns an error where the content is not what h says.
func (s *blobStore) Put(_ context.Context, _ string, h v1.Hash, rc io.ReadCloser) error {
	return s.write(digest.Digest(h.String()), rc)
}

func (s *blobStore) write(d digest.Digest, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(s.path(d)), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "upload-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path(d))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Delete removes a blob from every repository.
func (s *blobStore) Delete(_ context.Context, _ string, h v1.Hash) error {
	return os.Remove(s.path(digest.Digest(h.String())))
}

// serveBlob answers GET and HEAD, byte ranges included, without reading the
// whole file: images of gigabytes stay on disk.
func (s *blobStore) serveBlob(w http.ResponseWriter, req *http.Request, d digest.Digest) {
	if d.Validate() != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", "not a digest: "+d.String())
		return
	}
	f, err := s.open(d)
	if errors.Is(err, ggcr.ErrNotFound) {
		writeError(w, http.StatusNotFound, "BLOB_UNKNOWN", "no blob "+d.String())
		return
	}
	if err != nil {
		writeError(w, http.StatusInternalServerError, "UNKNOWN", fmt.Sprintf("open blob: %v", err))
		return
	}
	defer func() { _ = f.Close() }() // read only
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	http.ServeContent(w, req, "", time.Time{}, f)
}
