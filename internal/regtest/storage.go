package regtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// storagePath is where the storage host keeps blobs: /storage/<digest>.
const storagePath = "/storage/"

// urlSigner makes the expiring URLs that cloud registries redirect blobs to.
type urlSigner struct {
	mu    sync.Mutex
	epoch int // URLs of an earlier epoch are void
}

// ExpireURLs voids every blob URL handed out so far.
func (r *Registry) ExpireURLs() {
	r.urls.mu.Lock()
	defer r.urls.mu.Unlock()
	r.urls.epoch++
}

func (s *urlSigner) current() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

func (r *Registry) redirectBlob(w http.ResponseWriter, req *http.Request, d digest.Digest, ttl time.Duration) {
	if ttl == 0 {
		ttl = time.Hour
	}
	url := fmt.Sprintf("%s://%s%s%s?expires=%d&epoch=%d", r.scheme(), r.StorageHost(), storagePath, d,
		time.Now().Add(ttl).UnixNano(), r.urls.current())
	http.Redirect(w, req, url, http.StatusTemporaryRedirect)
}

// handleStorage serves the storage host. As object stores do, it answers 403 to
// a URL that has expired and 400 to a request that brings registry credentials along.
func (r *Registry) handleStorage(w http.ResponseWriter, req *http.Request) {
	r.logged(w, req, "storage", func(w http.ResponseWriter) {
		r.faults.apply(r, w, req, func(w http.ResponseWriter, req *http.Request) {
			query := req.URL.Query()
			expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
			switch {
			case req.Header.Get("Authorization") != "":
				http.Error(w, "only one auth mechanism allowed", http.StatusBadRequest)
			case err != nil || time.Now().UnixNano() > expires || query.Get("epoch") != strconv.Itoa(r.urls.current()):
				http.Error(w, "request has expired", http.StatusForbidden)
			default:
				r.blobs.serveBlob(w, req, digest.Digest(strings.TrimPrefix(req.URL.Path, storagePath)))
			}
		})
	})
}
