package regtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
)

// endpoint is what a request's path asks for.
type endpoint struct {
	kind string // "base", "blob", "manifest", "referrers", "oras-v2", "oras-v1", "token", "other"
	repo string
	ref  string // digest or tag
}

// parsePath recognises the registry's endpoints. Repository names may have
// slashes, so the path is read from its end.
func parsePath(req *http.Request) endpoint {
	path := req.URL.Path
	switch path {
	case tokenPath:
		return endpoint{kind: "token"}
	case "/v2", "/v2/":
		return endpoint{kind: "base"}
	}
	if rest, ok := strings.CutPrefix(path, "/oras/artifacts/v1/"); ok {
		rest, isList := strings.CutSuffix(rest, "/referrers")
		repo, ref, found := cutLast(rest, "/manifests/")
		if isList && found {
			return endpoint{kind: "oras-v1", repo: repo, ref: ref}
		}
		return endpoint{kind: "other", repo: rest}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return endpoint{kind: "other"}
	}
	if repo, found := strings.CutSuffix(rest, "/_oras/artifacts/referrers"); found {
		return endpoint{kind: "oras-v2", repo: repo, ref: req.URL.Query().Get("digest")}
	}
	for _, part := range [...]struct{ middle, kind string }{
		{"/blobs/uploads", "other"},
		{"/blobs/", "blob"},
		{"/manifests/", "manifest"},
		{"/referrers/", "referrers"},
		{"/tags/", "other"},
	} {
		if repo, ref, found := cutLast(rest, part.middle); found {
			return endpoint{kind: part.kind, repo: repo, ref: ref}
		}
	}
	return endpoint{kind: "other"}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// handle serves the registry's listener: log, then faults, then access, then content.
func (r *Registry) handle(w http.ResponseWriter, req *http.Request) {
	r.logged(w, req, "registry", func(w http.ResponseWriter) {
		r.faults.apply(r, w, req, func(w http.ResponseWriter, req *http.Request) {
			features, auth := r.settings()
			ep := parsePath(req)
			if ep.kind == "token" {
				r.tokens.serve(w, req, auth)
				return
			}
			if !r.tokens.authorise(w, req, ep, auth, r.URL()) {
				return
			}
			r.content(w, req, ep, features)
		})
	})
}

// content serves a request that nothing stands against.
func (r *Registry) content(w http.ResponseWriter, req *http.Request, ep endpoint, features Features) {
	read := req.Method == http.MethodGet || req.Method == http.MethodHead
	switch {
	case ep.kind == "blob" && read:
		if features.RedirectBlobs && req.Method == http.MethodGet {
			r.redirectBlob(w, req, digest.Digest(ep.ref), features.URLTTL)
			return
		}
		r.blobs.serveBlob(w, req, digest.Digest(ep.ref))
	case ep.kind == "manifest" && req.Method == http.MethodPut:
		r.putManifest(w, req, ep, features)
	case ep.kind == "manifest" && req.Method == http.MethodDelete:
		r.referrers.remove(ep.repo, ep.ref)
		r.manifests.ServeHTTP(w, req)
	case ep.kind == "referrers" && features.Referrers:
		r.serveReferrers(w, req, ep, features)
	case ep.kind == "oras-v2" && features.ORASv2, ep.kind == "oras-v1" && features.ORASv1:
		r.serveORAS(w, req, ep, features)
	default: // uploads, tags, catalogue; 404 for whatever is switched off
		r.manifests.ServeHTTP(w, req)
	}
}

// writeError answers as the distribution specification describes errors.
func writeError(w http.ResponseWriter, status int, code, message string) {
	body, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
	if err != nil {
		panic(fmt.Sprintf("marshal strings: %v", err)) // cannot happen
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone: its business
}

func separator(tagOrDigest string) string {
	if strings.Contains(tagOrDigest, ":") {
		return "@"
	}
	return ":"
}
