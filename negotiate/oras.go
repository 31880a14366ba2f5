package negotiate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// former asks the endpoints of the ORAS artifacts specification, newest first;
// the specification is frozen since 2023 and says: use OCI 1.1.
func (f *finder) former(ctx context.Context, subject digest.Digest) listing {
	for _, way := range [...]struct {
		found Discovery
		path  string
		query url.Values
	}{
		{FoundORASv2, "_oras/artifacts/referrers", url.Values{"digest": {subject.String()}}},
		{FoundORASv1, "/oras/artifacts/v1/" + f.repo.Path() + "/manifests/" + subject.String() + "/referrers", url.Values{}},
	} {
		key := supportKeyOf(way.found, f.repo.Registry(), f.repo.Path())
		if f.n.support.of(key) == unsupported {
			continue
		}
		// Where the forms known here have one type among them, the registry may
		// filter, as its clients of the time asked it to.
		if types := f.n.legacyTypes; len(types) == 1 {
			way.query.Set("artifactType", types[0])
		}
		found, seen := f.orasEndpoint(ctx, registry.Request{
			Path: way.path, Query: way.query, Capability: registry.Referrers,
		}, way.found)
		f.n.support.note(key, seen)
		if seen == supported || found.problem != nil {
			return found
		}
	}
	return listing{}
}

// orasEndpoint asks one endpoint. Not-found is ambiguous: the endpoint, the
// repository or any referrer may be what is missing, so it is "unsupported" only
// where the body does not say that a name or manifest is unknown.
func (f *finder) orasEndpoint(ctx context.Context, req registry.Request, found Discovery) (listing, verdict) {
	first, err := f.getPatiently(ctx, req)
	if err != nil {
		return orasRefused(err, found)
	}
	body, err := orasPage(first)
	switch {
	case errors.Is(err, errNotIndex):
		return listing{}, unsupported
	case err != nil:
		return listing{problem: err}, unknown
	}
	return f.collect(ctx, first, body, req, found), supported
}

func orasRefused(err error, found Discovery) (listing, verdict) {
	code, codes, _ := status(err)
	switch {
	case errors.Is(err, registry.ErrNoHost):
		return listing{}, unknown
	case code == http.StatusNotFound && (found == FoundORASv1 || len(codes) > 0 && strings.HasSuffix(codes[0], "_UNKNOWN")):
		return listing{}, unknown // zot up to 2.0.1 answers so for "nothing attached"
	case code == http.StatusNotFound, code == http.StatusBadRequest, code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented:
		return listing{}, unsupported
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return listing{}, unknown // a path outside /v2/ may need rights that nobody gives
	default:
		return listing{problem: err}, unknown
	}
}

// orasPage decodes an answer of either endpoint. A registry may state the version
// it speaks: any 1.x is understood, as minor versions only add.
func orasPage(a *answer) (page, error) {
	version := a.header.Get("ORAS-Api-Version")
	if version != "" && !strings.HasPrefix(version, "oras/1.") || a.mediaType == "text/html" {
		return page{}, errNotIndex
	}
	var body page
	if err := json.Unmarshal(a.body, &body); err != nil {
		return page{}, reason.Errorf(reason.RegistryError, "decode list of referrers: %w", err)
	}
	if !body.Referrers.present && !body.References.present {
		return page{}, errNotIndex
	}
	return body, nil
}
