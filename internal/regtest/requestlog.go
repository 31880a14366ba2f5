package regtest

import (
	"net/http"
	"sync"
	"time"
)

// maxLogged bounds the request log; older entries are dropped first.
const maxLogged = 1 << 17

// Entry is one request and what was answered.
type Entry struct {
	Server     string // "registry" or "storage"
	Method     string
	Path       string
	Query      string // raw
	Range      string // the Range header
	Status     int    // 0: the connection was dropped before an answer
	Bytes      int64  // body bytes sent
	Authorized bool   // an Authorization header came along
	UserAgent  string
	Start      time.Time
	Took       time.Duration
}

// requestLog remembers what was asked.
type requestLog struct {
	mu      sync.Mutex
	entries []Entry
}

// Requests returns the requests that have been answered since the last
// ResetRequests, in the order in which they ended.
func (r *Registry) Requests() []Entry {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return append([]Entry(nil), r.log.entries...)
}

// ResetRequests empties the log.
func (r *Registry) ResetRequests() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.entries = nil
}

// Count counts logged requests that match (nil: all) and the body bytes sent for them.
func (r *Registry) Count(match func(Entry) bool) (requests int, bytes int64) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for _, e := range r.log.entries {
		if match == nil || match(e) {
			requests++
			bytes += e.Bytes
		}
	}
	return requests, bytes
}

// logged runs serve and writes one log entry, even where serve aborts the connection.
func (r *Registry) logged(w http.ResponseWriter, req *http.Request, server string, serve func(http.ResponseWriter)) {
	if !r.enter() {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	defer r.active.Done()
	counting := &countingWriter{ResponseWriter: w}
	entry := Entry{
		Server: server, Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery,
		Range: req.Header.Get("Range"), Authorized: req.Header.Get("Authorization") != "",
		UserAgent: req.UserAgent(), Start: time.Now(),
	}
	defer func() {
		entry.Status, entry.Bytes, entry.Took = counting.status, counting.bytes, time.Since(entry.Start)
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		if len(r.log.entries) >= maxLogged {
			r.log.entries = append([]Entry(nil), r.log.entries[maxLogged/2:]...)
		}
		r.log.entries = append(r.log.entries, entry)
	}()
	serve(counting)
}

// countingWriter counts what is sent.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
