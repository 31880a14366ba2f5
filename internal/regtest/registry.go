package regtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// Options configures a Registry. The zero value is a plain-HTTP registry on a
// free port, with the OCI referrers API and without authentication.
type Options struct {
	Addr string // "127.0.0.1:5000"; empty: a free port on 127.0.0.1
	Dir  string // where blobs are kept; empty: a temporary directory, removed by Close
	TLS  bool   // serve HTTPS with a certificate made at start; see CertPEM

	Features *Features // nil: DefaultFeatures
	Auth     Auth      // zero: everyone may do everything
}

// Registry is a running registry. All methods are safe for concurrent use.
type Registry struct {
	main    *server
	storage *server // started with the registry, used when Features.RedirectBlobs is set

	blobs     *blobStore
	manifests http.Handler // go-containerregistry: uploads, manifests, tags, catalogue
	referrers referrerIndex
	tokens    tokenServer
	urls      urlSigner
	faults    faultList
	log       requestLog

	mu       sync.Mutex
	features Features
	auth     Auth

	connections atomic.Int64
	tempDir     string
	cert        *certificate
	active      sync.WaitGroup // handlers at work; added to under mu while not closing
	closing     chan struct{}  // closed by Close under mu: lets go of hanging handlers
	closeOnce   sync.Once
	closeErr    error
}

// server is one listener and the goroutine that serves it.
type server struct {
	http     *http.Server
	listener net.Listener
	done     chan error // receives Serve's result once
}

// Start runs a registry until Close.
func Start(opts Options) (*Registry, error) {
	r := &Registry{features: DefaultFeatures(), auth: opts.Auth, closing: make(chan struct{})}
	if opts.Features != nil {
		r.features = *opts.Features
	}
	dir := opts.Dir
	if dir == "" {
		temp, err := os.MkdirTemp("", "regtest-*")
		if err != nil {
			return nil, fmt.Errorf("make blob directory: %w", err)
		}
		r.tempDir, dir = temp, temp
	}
	r.blobs = &blobStore{dir: dir}
	r.manifests = ggcr.New(ggcr.WithBlobHandler(r.blobs), ggcr.Logger(log.New(io.Discard, "", 0)))
	if err := r.listen(opts); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Registry) listen(opts Options) error {
	addr := opts.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if opts.TLS {
		cert, err := newCertificate()
		if err != nil {
			return fmt.Errorf("make certificate: %w", err)
		}
		r.cert = cert
	}
	var err error
	if r.main, err = r.serve(addr, r.handle); err != nil {
		return err
	}
	r.storage, err = r.serve("127.0.0.1:0", r.handleStorage)
	return err
}

// serve starts one listener. Close waits for its goroutine through server.done.
func (r *Registry) serve(addr string, handler http.HandlerFunc) (*server, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr) // at once: nothing to cancel
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	s := &server{
		listener: l,
		done:     make(chan error, 1),
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 30 * time.Second,
			ErrorLog:          log.New(io.Discard, "", 0), // aborted handlers are faults somebody asked for
			ConnState: func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					r.connections.Add(1)
				}
			},
		},
	}
	serving := l
	if r.cert != nil {
		serving = tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{r.cert.pair}, MinVersion: tls.VersionTLS12,
		})
	}
	go func() { s.done <- s.http.Serve(serving) }()
	return s, nil
}

// Close stops serving, drops every connection and removes the temporary
// directory. It may be called more than once.
func (r *Registry) Close() error {
	r.closeOnce.Do(func() {
		r.mu.Lock()
		close(r.closing)
		r.mu.Unlock()
		for _, s := range []*server{r.main, r.storage} {
			if s == nil {
				continue
			}
			_ = s.http.Close() // the listener is ours and already counted below
			if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
				r.closeErr = errors.Join(r.closeErr, err)
			}
		}
		r.active.Wait()
		if r.tempDir != "" {
			r.closeErr = errors.Join(r.closeErr, os.RemoveAll(r.tempDir))
		}
	})
	return r.closeErr
}

// enter counts a handler in; false once the registry closes.
func (r *Registry) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.closing:
		return false
	default:
		r.active.Add(1)
		return true
	}
}

// New starts a registry that is closed when the test ends.
func New(t testing.TB, opts Options) *Registry {
	t.Helper()
	r, err := Start(opts)
	if err != nil {
		t.Fatalf("start registry: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close registry: %v", err)
		}
	})
	return r
}

// Host is "127.0.0.1:port", as it stands in an image reference.
func (r *Registry) Host() string { return r.main.listener.Addr().String() }

// StorageHost is the "host:port" to which blobs are redirected.
func (r *Registry) StorageHost() string { return r.storage.listener.Addr().String() }

// URL is the registry's origin, "http://127.0.0.1:port".
func (r *Registry) URL() string { return r.scheme() + "://" + r.Host() }

// Ref is an image reference into this registry: Ref("redis", "7") or, with a
// digest, Ref("redis", "sha256:…").
func (r *Registry) Ref(repo, tagOrDigest string) string {
	return r.Host() + "/" + repo + separator(tagOrDigest) + tagOrDigest
}

func (r *Registry) scheme() string {
	if r.cert != nil {
		return "https"
	}
	return "http"
}

// CertPEM is the certificate that a client has to trust, nil without TLS.
func (r *Registry) CertPEM() []byte {
	if r.cert == nil {
		return nil
	}
	return r.cert.pem
}

// CertPool holds the certificate of CertPEM, nil without TLS.
func (r *Registry) CertPool() *x509.CertPool {
	if r.cert == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.cert.pem)
	return pool
}

// Connections counts the connections accepted so far, storage host included.
func (r *Registry) Connections() int64 { return r.connections.Load() }

// wait sleeps for d; it returns false when the client or the registry goes first.
func (r *Registry) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-r.closing:
	}
	return false
}
