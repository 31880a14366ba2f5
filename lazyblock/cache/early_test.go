package cache

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/blob"
)

// halting is a registry that sends the first bytes of each answer, and the rest
// when it is told to.
type halting struct {
	*source

	first int64
	goOn  chan struct{}
}

func (h *halting) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var off, last int
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &off, &last); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.asked = append(h.asked, [2]int64{int64(off), int64(last - off + 1)})
	h.mu.Unlock()
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, last, len(h.content)))
	w.WriteHeader(http.StatusPartialContent)
	stop := min(off+int(h.first), last+1)
	_, _ = w.Write(h.content[off:stop])       // the client may have gone
	_ = http.NewResponseController(w).Flush() // as above
	select {
	case <-h.goOn:
		_, _ = w.Write(h.content[stop : last+1])
	case <-req.Context().Done():
	}
}

// halt returns a cached blob in a registry that halts after the first bytes.
func halt(t *testing.T, first int64) (*halting, *Blob) {
	t.Helper()
	h := &halting{source: newSource(1, 16*mib), first: first, goOn: make(chan struct{})}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	repo, err := registry.New(registry.Options{}).Repository(strings.TrimPrefix(server.URL, "http://")+"/app", registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := openStore(t, t.TempDir(), Options{Guess: -1, MaxReadAhead: -1}).Blob(h.desc(), blob.Open(repo, h.desc(), blob.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return h, b
}

// TestReadDoesNotWaitForItsNeighbours: what a miss fetches besides comes later, and
// once.
func TestReadDoesNotWaitForItsNeighbours(t *testing.T) {
	t.Parallel()
	h, b := halt(t, 64*kib)
	for _, off := range []int64{mib, mib + 8*kib, mib + 40*kib} {
		check(t, b, h.source, off, 4*kib)
	}
	later := make(chan error, 1)
	p := make([]byte, 4*kib)
	go func() { // ends when the registry goes on
		_, err := b.ReadRange(t.Context(), p, mib+200*kib)
		later <- err
	}()
	select {
	case err := <-later:
		t.Errorf("what has not come is read: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(h.goOn)
	if err := <-later; err != nil || !bytes.Equal(p, h.content[mib+200*kib:][:len(p)]) {
		t.Errorf("wrong bytes, error %v", err)
	}
	waitQuiet(t, b, 0)
	check(t, b, h.source, mib, 256*kib)
	if diff := cmp.Diff([][2]int64{{mib, 256 * kib}}, h.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// TestReadersDoNotOutrunTheLink: what nobody waits for is bounded.
func TestReadersDoNotOutrunTheLink(t *testing.T) {
	t.Parallel()
	h, b := halt(t, 64*kib)
	for i := range int64(underWay) {
		check(t, b, h.source, i*mib, 4*kib)
	}
	later := make(chan error, 1)
	go func() { // ends when the registry goes on
		_, err := b.ReadRange(t.Context(), make([]byte, 4*kib), 8*mib)
		later <- err
	}()
	select {
	case err := <-later:
		t.Errorf("one more than %d was left to itself: %v", underWay, err)
	case <-time.After(50 * time.Millisecond):
	}
	close(h.goOn)
	if err := <-later; err != nil {
		t.Error(err)
	}
}

// TestFailedFetchIsNoHole: between the arrival of a reader's bytes and their copying
// the fetch may fail. What the file has there then is a hole, which reads as zeros.
func TestFailedFetchIsNoHole(t *testing.T) {
	t.Parallel()
	src := newSource(1, mib)
	b := openBlob(t, openStore(t, t.TempDir(), Options{}), src)
	failed := &fetch{off: 0, end: 256 * kib, done: make(chan struct{}), err: errors.New("registry is away")}
	close(failed.done)
	p := make([]byte, 4*kib)
	if err := b.file.copyPiece(t.Context(), p, 8*kib, piece{0, 256 * kib, failed}); !errors.Is(err, failed.err) {
		t.Errorf("error %v, want that of the fetch", err)
	}
	failed.abandoned = true
	if err := b.file.copyPiece(t.Context(), p, 8*kib, piece{0, 256 * kib, failed}); err != nil || !bytes.Equal(p, src.content[8*kib:][:len(p)]) {
		t.Errorf("another's departure: wrong bytes, or %v", err)
	}
}
