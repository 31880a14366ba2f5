// Package control carries what the command line asks of the running daemon: JSON
// over HTTP over a unix socket that only root may write to.
//
// It knows no command: handlers and the shapes of answers are their owner's.
//
// Goroutines: one of Serve's, and those of net/http for each request, which end
// before Serve returns.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

const (
	headerTimeout = 10 * time.Second
	endTimeout    = 2 * time.Second
	maxLine       = 16 << 20 // of an answer: a node has thousands of blobs, not millions
)

// Path is where the daemon with that state directory listens.
func Path(state string) string { return filepath.Join(state, "control.sock") }

// DebugPath is where the daemon with that state directory serves profiles.
func DebugPath(state string) string { return filepath.Join(state, "debug.sock") }

// Serve answers on listener, which it closes, until ctx ends. Requests that are
// being answered then are given a moment, and cancelled.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { // awaited below
		defer close(ended)
		cancel()
		ending, done := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer done()
		if server.Shutdown(ending) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Error is what Fail sends.
type Error struct {
	Message string `json:"error"`
}

// Fail answers a request with an error.
func Fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Error{err.Error()}) // nobody to tell
}

// Stream answers a request with JSON values, one a line, each sent at once.
type Stream struct {
	encoder *json.Encoder
	flush   func() error
}

// NewStream begins an answer.
func NewStream(w http.ResponseWriter) *Stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &Stream{json.NewEncoder(w), http.NewResponseController(w).Flush}
}

// Send sends one value.
func (s *Stream) Send(v any) error {
	if err := s.encoder.Encode(v); err != nil {
		return err
	}
	return s.flush()
}

// Client asks the daemon that listens at Path.
type Client struct{ Path string }

// ErrNoDaemon says that nobody listens.
var ErrNoDaemon = errors.New("the daemon does not run, or its state directory is another one")

// Do sends a request and calls each for every line of the answer.
func (c Client) Do(ctx context.Context, method, target string, each func(line json.RawMessage) error) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", c.Path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoDaemon, err)
		}
		return conn, nil
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://referee"+target, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the daemon: %w", refusal(response))
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := each(bytes.Clone(lines.Bytes())); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the daemon's answer breaks off: %w", err)
	}
	return nil
}

func refusal(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return err
	}
	var said Error
	if json.Unmarshal(text, &said) != nil || said.Message == "" {
		return fmt.Errorf("it says %s: %q", response.Status, text)
	}
	return errors.New(said.Message)
}
