package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/tracing"
)

// Capability is what a host must be trusted with (hosts.toml "capabilities").
type Capability uint8

// The capabilities, as containerd has them.
const (
	Pull      = Capability(docker.HostCapabilityPull)      // content by digest
	Resolve   = Capability(docker.HostCapabilityResolve)   // a tag's meaning
	Referrers = Capability(docker.HostCapabilityReferrers) // what is attached to a digest
)

// maxAttempts bounds the dance of one request with one host: without a token,
// with one that has expired, with a new one for each set of credentials.
const maxAttempts = 8

// maxRedirects is the usual limit.
const maxRedirects = 10

// Request is one request to a repository.
type Request struct {
	Method string // default GET

	// Path is relative to the repository: "manifests/latest",
	// "blobs/sha256:…", "referrers/sha256:…". With a leading "/" it is relative
	// to the host.
	Path   string
	Query  url.Values
	Header http.Header

	// Capability limits the hosts asked; 0: any host.
	Capability Capability

	// Accept, where not nil, judges a 2xx answer before its body is read. An
	// error sends the request to the next host, and is returned by the last.
	Accept func(*Response) error

	// At goes straight to where an earlier Response came from and nowhere else,
	// unless certs.d has changed since. nil: the hosts in their order.
	At *Location
}

// Location is where a response came from. It is opaque but for comparison with
// nil, and good until the registry's signature on it expires: then Do fails and
// the request must be made again without it.
type Location struct {
	set  *hostSet
	host *host
	url  *url.URL // nil: the host itself answered
}

// Redirected reports whether the host had sent us elsewhere.
func (l *Location) Redirected() bool { return l.url != nil }

// Failed tells that the answer from there broke off: its host will be asked
// after the others for a while.
func (l *Location) Failed() { l.host.markDown() }

// Same reports whether both mean the same place, so that a later request need
// not forget what another has found meanwhile. Both may be nil.
func (l *Location) Same(other *Location) bool {
	if l == nil || other == nil {
		return l == other
	}
	sameURL := l.url == other.url || (l.url != nil && other.url != nil && *l.url == *other.url)
	return l.host == other.host && sameURL
}

// Response is a 2xx answer. Its Body must be closed.
type Response struct {
	*http.Response
	Host string // the host that was asked, "mirror.example:5000"
	At   *Location
}

// Repository is one repository of a registry as seen with one set of
// credentials. It is safe for concurrent use.
type Repository struct {
	client  *Client
	session *session
}

// Name is the repository's full name, "docker.io/library/redis".
func (r *Repository) Name() string { return r.session.key.host + "/" + r.session.key.path }

// Registry is the host part of the name, as in image references.
func (r *Repository) Registry() string { return r.session.key.host }

// Path is the name without the host.
func (r *Repository) Path() string { return r.session.key.path }

// Do asks the hosts in their order until one gives a 2xx answer. Redirects are
// followed. The error is the last host's; it carries reason.Unauthorized,
// NotFound, RegistryError (with a *StatusError to look at) or
// RegistryUnreachable, and the plain context error where ctx ended. ctx also
// bounds the reading of the body.
func (r *Repository) Do(ctx context.Context, req Request) (*Response, error) {
	if req.Method == "" {
		req.Method = http.MethodGet
	}
	set, err := r.client.hostSet(ctx, r.session.key.host)
	if err != nil {
		return nil, err
	}
	if req.At != nil && req.At.set == set {
		return r.ask(ctx, set, req.At.host, req)
	}
	req.At = nil
	hosts := set.order(docker.HostCapabilities(req.Capability), time.Now())
	if len(hosts) == 0 {
		return nil, reason.Errorf(reason.NotFound, "%s %s in %s: %w", req.Method, req.Path, r.Name(), ErrNoHost)
	}
	for i, h := range hosts {
		resp, err := r.ask(ctx, set, h, req)
		if err == nil {
			return resp, nil
		}
		if i == len(hosts)-1 || ctx.Err() != nil {
			return nil, err
		}
		r.client.opts.Log.Debug("asking the next host",
			zap.String("repository", r.Name()), zap.String("host", h.Host), zap.Error(err))
	}
	return nil, nil // not reached: hosts is not empty
}

// ask makes the request to one host and notes whether the host can be reached.
func (r *Repository) ask(ctx context.Context, set *hostSet, h *host, req Request) (*Response, error) {
	start := time.Now()
	ctx, span := tracing.Start(ctx, "registry request", attribute.String("server.address", h.Host), attribute.String("url.template", template(req.Path)))
	resp, err := r.converse(ctx, set, h, req)
	span.End(err)
	if observe := r.client.opts.Observe; observe != nil {
		observe(Asked{Path: req.Path, Took: time.Since(start), Err: err})
	}
	switch {
	case req.At != nil && req.At.url != nil:
		// Some storage answered or not: nothing is learned about h.
	case err == nil:
		h.downUntil.Store(0)
	case reason.Of(err) == reason.RegistryUnreachable,
		errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(start) >= time.Second:
		if isTLS(err) {
			set.stale.Store(true)
		}
		if h.markDown() {
			r.client.opts.Log.Info("registry host is down", zap.String("host", h.Host), zap.Error(err))
		}
	}
	return resp, err
}

// template is what a path is about, without what it names.
func template(path string) string {
	about, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return about
}

// isTLS reports whether certificates, ours or theirs, may have been replaced.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.AlertError](err)
	return ok
}

// converse makes the request to one host, answering its challenges.
func (r *Repository) converse(ctx context.Context, set *hostSet, h *host, req Request) (*Response, error) {
	target := r.target(h, req)
	client := *h.Client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error { return redirect(h, next, via) }
	tokens := r.session.tokensFor(r.client, set, h)
	ctx = docker.WithScope(ctx, "repository:"+r.session.key.path+":pull")

	for attempt := 1; ; attempt++ {
		hreq, err := http.NewRequestWithContext(ctx, req.Method, target.String(), nil)
		if err != nil {
			return nil, reason.Errorf(reason.BadRequest, "make request for %s: %w", redact(target), err)
		}
		ours := sameOrigin(h, target)
		r.setHeader(hreq, h, req, ours)
		generation := 0
		if ours {
			if generation, err = tokens.authorize(ctx, hreq); err != nil {
				return nil, r.failed(ctx, req, target, tokenError(err))
			}
		}
		resp, err := client.Do(hreq)
		if err != nil {
			return nil, r.failed(ctx, req, target, reason.Wrap(reason.RegistryUnreachable, transportError(req.Method, target, err)))
		}
		if resp.StatusCode/100 == 2 {
			r.session.proven.Store(true)
			if ours && hreq.Header.Get("Authorization") != "" {
				tokens.accept(generation)
			}
			return accept(req, &Response{Response: resp, Host: h.Host, At: location(set, h, req, resp)})
		}
		if !wantsOther(req, resp) || !sameOrigin(h, resp.Request.URL) || attempt == maxAttempts {
			return nil, newStatusError(resp, h.Host)
		}
		if err := tokens.challenged(ctx, generation, resp); err != nil {
			r.client.opts.Log.Debug("challenge not answered", zap.String("host", h.Host), zap.Error(err))
			return nil, r.failed(ctx, req, target, newStatusError(resp, h.Host))
		}
		discard(resp)
	}
}

// wantsOther reports whether other credentials may help. 403 is what some
// registries say to an expired password (Amazon's); at endpoints that not every
// registry has it means other things too.
func wantsOther(req Request, resp *http.Response) bool {
	content := req.Capability == Pull || req.Capability == Resolve
	return resp.StatusCode == http.StatusUnauthorized || (resp.StatusCode == http.StatusForbidden && content)
}

func accept(req Request, resp *Response) (*Response, error) {
	if req.Accept == nil {
		return resp, nil
	}
	if err := req.Accept(resp); err != nil {
		_ = resp.Body.Close() // unread, so the connection goes as well
		return nil, err
	}
	return resp, nil
}

// failed prefers the caller's own end to what it did to the request.
func (r *Repository) failed(ctx context.Context, req Request, target *url.URL, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", req.Method, redact(target), ctx.Err())
	}
	return err
}

// target is the URL to ask h for.
func (r *Repository) target(h *host, req Request) *url.URL {
	if req.At != nil && req.At.url != nil {
		return req.At.url
	}
	u := &url.URL{Scheme: h.Scheme, Host: h.Host, Path: req.Path}
	if !strings.HasPrefix(req.Path, "/") {
		u.Path = h.Path + "/" + r.session.key.path + "/" + req.Path
	}
	query := url.Values{}
	for name, values := range req.Query {
		query[name] = values
	}
	if h.mirrorOf(r.session.key.host) {
		query.Set("ns", r.session.key.host)
	}
	u.RawQuery = query.Encode()
	return u
}

// setHeader gives the request its headers; those from hosts.toml go to the
// host itself only.
func (r *Repository) setHeader(hreq *http.Request, h *host, req Request, ours bool) {
	hreq.Header.Set("User-Agent", r.client.opts.UserAgent)
	if ours {
		for name, values := range h.Header {
			hreq.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	for name, values := range req.Header {
		hreq.Header[http.CanonicalHeaderKey(name)] = values
	}
}

// redirect takes from a request that leaves h what only h may see.
// distribution-spec and net/http agree for other domains; net/http alone would
// still tell sub-domains and other ports.
func redirect(h *host, next *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errors.New("too many redirects")
	}
	if sameOrigin(h, next.URL) {
		return nil
	}
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		next.Header.Del(name)
	}
	for name := range h.Header {
		next.Header.Del(name)
	}
	return nil
}

// sameOrigin reports whether u may see h's credentials: the same authority,
// not over a weaker scheme. A local registry may be configured for either.
func sameOrigin(h *host, u *url.URL) bool {
	return u.Host == h.Host && (u.Scheme == h.Scheme || u.Scheme == "https" || docker.IsLocalhost(h.Host))
}

// location remembers where the answer to req came from.
func location(set *hostSet, h *host, req Request, resp *http.Response) *Location {
	at := &Location{set: set, host: h}
	switch {
	case resp.Request.Response != nil: // net/http followed a redirect
		at.url = resp.Request.URL
	case req.At != nil:
		at.url = req.At.url
	}
	return at
}

// discard reads a short body to its end, so that its connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody) // an error only costs the connection
	_ = resp.Body.Close()
}
