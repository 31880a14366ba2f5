package regtest

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is something that goes wrong with the requests it matches. All fields
// that are set take effect, in the order in which they stand here.
type Fault struct {
	Match func(*http.Request) bool // nil: every request, storage and token server included
	Skip  int                      // let so many matching requests pass first
	Times int                      // then strike so often; 0: always

	Latency     time.Duration // wait before anything else
	Hang        bool          // answer nothing until the fault is removed, the client leaves or the registry closes
	Drop        bool          // close the connection without an answer
	IgnoreRange bool          // serve the whole where a part was asked for

	Status int         // answer this instead, with Header and Body
	Header http.Header // set on the answer, whatever it is; empty values remove
	Body   []byte

	Rewrite func(body []byte) []byte // change the answer's body; for small answers, kept in memory
	FlipAt  *int64                   // invert one byte, at this offset of the whole blob whatever range is served
	CutAt   *int64                   // drop the connection after so many bytes of the body

	BytesPerSecond int64 // throttle the body of each answer
}

// Path matches requests whose method is one of methods (none: any) and whose
// path contains part.
func Path(part string, methods ...string) func(*http.Request) bool {
	return func(req *http.Request) bool {
		return strings.Contains(req.URL.Path, part) && (len(methods) == 0 || slices.Contains(methods, req.Method))
	}
}

// faultList holds the faults in force. Several may strike the same request.
type faultList struct {
	mu    sync.Mutex
	armed []*armedFault
}

type armedFault struct {
	Fault
	seen    int
	removed chan struct{}
}

// Inject arms a fault and returns the function that removes it, which may be
// called more than once.
func (r *Registry) Inject(f Fault) (remove func()) {
	a := &armedFault{Fault: f, removed: make(chan struct{})}
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.armed = append(r.faults.armed, a)
	return sync.OnceFunc(func() {
		r.faults.mu.Lock()
		defer r.faults.mu.Unlock()
		r.faults.armed = slices.DeleteFunc(r.faults.armed, func(other *armedFault) bool { return other == a })
		close(a.removed)
	})
}

func (l *faultList) striking(req *http.Request) []*armedFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*armedFault
	for _, a := range l.armed {
		if a.Match != nil && !a.Match(req) {
			continue
		}
		a.seen++
		if a.seen > a.Skip && (a.Times == 0 || a.seen <= a.Skip+a.Times) {
			found = append(found, a)
		}
	}
	return found
}

// apply serves req through next, with every fault that strikes it.
func (l *faultList) apply(r *Registry, w http.ResponseWriter, req *http.Request, next http.HandlerFunc) {
	var finish []func()
	for _, f := range l.striking(req) {
		f.before(r, req)
		if f.Status != 0 {
			next = f.answer
		}
		var done func()
		if w, done = f.wrap(r, w, req); done != nil {
			finish = append(finish, done)
		}
	}
	next(w, req)
	for _, done := range slices.Backward(finish) {
		done()
	}
}

// before holds or aborts the request.
func (f *armedFault) before(r *Registry, req *http.Request) {
	if f.Latency > 0 && !r.wait(req.Context(), f.Latency) {
		panic(http.ErrAbortHandler)
	}
	if f.Hang {
		select {
		case <-f.removed:
		case <-req.Context().Done():
		case <-r.closing:
		}
	}
	if f.Drop || f.Hang {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	if f.IgnoreRange {
		req.Header.Del("Range")
	}
}

func (f *armedFault) answer(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(f.Status)
	_, _ = w.Write(f.Body) // the client may have gone: its business
}

// wrap changes the answer on its way out. done, where not nil, runs after the handler.
func (f *armedFault) wrap(r *Registry, w http.ResponseWriter, req *http.Request) (_ http.ResponseWriter, done func()) {
	if f.Header != nil || f.FlipAt != nil || f.CutAt != nil || f.BytesPerSecond > 0 {
		w = &faultyWriter{ResponseWriter: w, fault: f, registry: r, req: req}
	}
	if f.Rewrite == nil {
		return w, nil
	}
	buffer := &bufferWriter{header: http.Header{}, status: http.StatusOK}
	return buffer, func() {
		body := buffer.body.Bytes()
		if req.Method != http.MethodHead {
			body = f.Rewrite(body)
			buffer.header.Set("Content-Length", strconv.Itoa(len(body)))
		}
		maps.Copy(w.Header(), buffer.header)
		w.WriteHeader(buffer.status)
		_, _ = w.Write(body) // the client may have gone: its business
	}
}

// faultyWriter corrupts, cuts or slows an answer.
type faultyWriter struct {
	http.ResponseWriter
	fault    *armedFault
	registry *Registry
	req      *http.Request
	started  bool
	base     int64 // offset of the body within the blob
	sent     int64
}

func (w *faultyWriter) WriteHeader(status int) {
	if w.started {
		return
	}
	w.started = true
	for name, values := range w.fault.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
		if len(values) == 0 || values[0] == "" {
			w.Header().Del(name)
		}
	}
	var first int64
	if _, err := fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-", &first); err == nil {
		w.base = first
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	chunk := len(p)
	if w.fault.BytesPerSecond > 0 {
		chunk = max(int(w.fault.BytesPerSecond/50), 1) // 20 ms worth at a time
	}
	written := 0
	for part := range slices.Chunk(p, max(chunk, 1)) {
		n, err := w.writePart(part)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (w *faultyWriter) writePart(p []byte) (int, error) {
	f := w.fault
	if f.FlipAt != nil {
		if at := *f.FlipAt - w.base - w.sent; at >= 0 && at < int64(len(p)) {
			p = bytes.Clone(p)
			p[at] ^= 0xff
		}
	}
	if f.CutAt != nil && w.sent+int64(len(p)) > *f.CutAt {
		n, _ := w.ResponseWriter.Write(p[:max(*f.CutAt-w.sent, 0)])
		w.sent += int64(n)
		_ = http.NewResponseController(w.ResponseWriter).Flush() // what was sent shall arrive
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	if f.BytesPerSecond > 0 && err == nil {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		if !w.registry.wait(w.req.Context(), time.Duration(n)*time.Second/time.Duration(f.BytesPerSecond)) {
			panic(http.ErrAbortHandler)
		}
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *faultyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bufferWriter keeps an answer until it is complete.
type bufferWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *bufferWriter) Header() http.Header         { return w.header }
func (w *bufferWriter) WriteHeader(status int)      { w.status = status }
func (w *bufferWriter) Write(p []byte) (int, error) { return w.body.Write(p) }
