package negotiate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// former asks those endpoints of the ORAS artifacts specification whose verdict
// is worth it, newest first; the specification is frozen since 2023 and says: use
// OCI 1.1.
func (f *finder) former(ctx context.Context, key listKey, worth func(verdict) bool) listing {
	subject := key.subject
	for _, way := range [...]struct {
		found Discovery
		path  string
		query url.Values
	}{
		{FoundORASv2, "_oras/artifacts/referrers", url.Values{"digest": {subject.String()}}},
		{FoundORASv1, "/oras/artifacts/v1/" + f.repo.Path() + "/manifests/" + subject.String() + "/referrers", url.Values{}},
	} {
		endpoint := supportKeyOf(way.found, f.repo.Registry(), f.repo.Path())
		if !worth(f.n.support.of(endpoint)) {
			continue
		}
		if key.legacyType != "" {
			way.query.Set("artifactType", key.legacyType)
		}
		found, seen := f.orasEndpoint(ctx, registry.Request{
			Path: way.path, Query: way.query, Capability: registry.Referrers,
		}, way.found)
		f.n.support.note(endpoint, seen)
		if seen == supported || found.problem != nil {
			return found
		}
	}
	return listing{}
}

func notUnsupported(v verdict) bool { return v != unsupported }

func onlySupported(v verdict) bool { return v == supported }

// legacyType is the artifact type that the registry may filter by, as its
// clients of the time asked it to: that of the forms which this node can attach,
// where they have one among them. No endpoint can be asked for two.
func (f *finder) legacyType() string {
	var types []string
	if f.legacy != LegacyOff {
		for _, r := range f.n.recognisers {
			if legacy := r.LegacyTypes(); len(legacy) > 0 && f.n.attachable(r.Format()) == nil {
				types = append(types, legacy...)
			}
		}
	}
	if len(types) != 1 {
		return ""
	}
	return types[0]
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
