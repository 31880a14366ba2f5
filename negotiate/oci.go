package negotiate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// maxRetryAfter is how long a registry that says 429 is waited for, once.
const maxRetryAfter = time.Second

// current asks by the OCI distribution-spec 1.1: the referrers API, and where a
// registry does not have it the fallback tag.
func (f *finder) current(ctx context.Context, subject digest.Digest) listing {
	key := supportKeyOf(FoundReferrersAPI, f.repo.Registry(), f.repo.Path())
	if f.n.support.of(key) == unsupported {
		return f.tagSchema(ctx, subject)
	}
	found, seen := f.referrersAPI(ctx, subject)
	f.n.support.note(key, seen)
	if seen == supported || !worthTag(found.problem) {
		return found
	}
	byTag := f.tagSchema(ctx, subject)
	if len(byTag.entries) == 0 && byTag.problem == nil {
		byTag.problem = found.problem
	}
	return byTag
}

// worthTag tells whether the fallback tag may know more after the API ended with
// problem: after a refusal yes, after a silence or a server's own failure no.
func worthTag(problem error) bool {
	code := reason.Of(problem)
	return problem == nil || code == reason.Unauthorized || code == reason.NotFound
}

// referrersAPI asks GET /v2/<name>/referrers/<digest>. It asks without a filter:
// some registries filter on the config's media type and so hide artifacts
// (Harbor 2.8 to 2.10).
func (f *finder) referrersAPI(ctx context.Context, subject digest.Digest) (listing, verdict) {
	req := registry.Request{
		Path:   "referrers/" + subject.String(),
		Header: http.Header{"Accept": {acceptIndex}}, Capability: registry.Referrers, Accept: acceptList,
	}
	first, err := f.getPatiently(ctx, req)
	if err != nil {
		return apiRefused(err)
	}
	body, err := indexPage(first)
	switch {
	case errors.Is(err, errNotIndex):
		return listing{}, unsupported
	case err != nil:
		return listing{problem: err}, unknown
	}
	return f.collect(ctx, first, body, req, FoundReferrersAPI), supported
}

// apiRefused reads an error status (the reader's table of the specification's
// "Listing Referrers", and what registries do instead).
func apiRefused(err error) (listing, verdict) {
	if errors.Is(err, errNotIndex) {
		return listing{}, unsupported // a login page, or somebody's catch-all
	}
	code, codes, _ := status(err)
	switch code {
	case http.StatusNotFound:
		if slices.Contains(codes, "NAME_UNKNOWN") {
			return listing{}, unknown // the repository is not known through this host
		}
		return listing{}, unsupported
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return listing{}, unsupported
	}
	if errors.Is(err, registry.ErrNoHost) {
		return listing{}, unknown
	}
	return listing{problem: err}, unknown
}

// errNotIndex says that an answer is of another kind than the one asked for.
var errNotIndex = reason.Errorf(reason.RegistryError, "answer is no list of referrers")

// listTypes are the content types of lists. Harbor before 2.11 served them as
// application/json, others as a Docker list.
var listTypes = []string{ocispec.MediaTypeImageIndex, "application/json", mediaTypeDockerList}

// acceptList sends the request to the next host where one answers with a page
// for people, as mirrors do that do not know the path.
func acceptList(resp *registry.Response) error {
	if !slices.Contains(listTypes, bareMediaType(resp.Header.Get("Content-Type"))) {
		return errNotIndex
	}
	return nil
}

// indexPage decodes an answer of the API. Where its type does not say so exactly,
// the body must plainly be an index.
func indexPage(a *answer) (page, error) {
	var body page
	exact := a.mediaType == ocispec.MediaTypeImageIndex
	if !slices.Contains(listTypes, a.mediaType) {
		return page{}, errNotIndex
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return page{}, reason.Errorf(reason.RegistryError, "decode list of referrers: %w", err)
	}
	if !exact && (body.SchemaVersion != 2 || !body.Manifests.present) {
		return page{}, errNotIndex
	}
	return body, nil
}

// tagSchema asks for the index under the fallback tag. A tag that is absent, or
// is no index, means that nothing is attached.
func (f *finder) tagSchema(ctx context.Context, subject digest.Digest) listing {
	req := registry.Request{
		Path:   "manifests/" + fallbackTag(subject),
		Header: http.Header{"Accept": {acceptIndex}}, Capability: registry.Referrers,
	}
	a, err := f.getPatiently(ctx, req)
	if errors.Is(err, registry.ErrNoHost) {
		req.Capability = registry.Resolve
		a, err = f.getPatiently(ctx, req)
	}
	if err != nil {
		if code, _, _ := status(err); code == http.StatusNotFound || code == http.StatusBadRequest {
			return listing{}
		}
		return listing{problem: err}
	}
	if want, err := digest.Parse(a.header.Get("Docker-Content-Digest")); err == nil && want.Algorithm().FromBytes(a.body) != want {
		return listing{problem: reason.Errorf(reason.DigestMismatch, "referrers tag of %s is not %s", subject, want)}
	}
	body, err := indexPage(a)
	if err != nil {
		return listing{} // somebody's image under that tag
	}
	var found listing
	found.take(body, FoundTagSchema)
	return found
}

// fallbackTag is the referrers tag of a digest (distribution-spec 1.1, "Referrers
// Tag Schema"): algorithm cut to 32 characters, "-", encoded part cut to 64, and
// "-" for what a tag may not hold.
func fallbackTag(d digest.Digest) string {
	algorithm, encoded := d.Algorithm().String(), d.Encoded()
	tag := algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		default:
			return '-'
		}
	}, tag)
}

// take adds the entries of one page.
func (l *listing) take(body page, found Discovery) {
	for _, list := range [...]entryList{body.Manifests, body.Referrers, body.References} {
		for _, e := range list.entries {
			e.found = found
			if !l.add(e) {
				return
			}
		}
	}
}

// collect takes the first page and those after it. A list that cannot be read to
// its end is used as far as it goes: every artifact is checked by itself.
func (f *finder) collect(ctx context.Context, a *answer, body page, req registry.Request, found Discovery) listing {
	var list listing
	seen := map[string]bool{}
	for pages := 1; ; pages++ {
		list.take(body, found)
		seen[a.url.RequestURI()] = true
		next, ok := nextLink(a.header)
		if !ok {
			next, ok = body.NextLink, body.NextLink != ""
		}
		if !ok {
			return list
		}
		target, err := resolvePage(a.url, next)
		switch {
		case err != nil:
		case pages == maxPages || len(list.entries) >= maxEntries:
			err = reason.Errorf(reason.RegistryError, "list of referrers is longer than %d pages or %d entries", maxPages, maxEntries)
		case seen[target.RequestURI()]:
			err = reason.Errorf(reason.RegistryError, "pages of the list of referrers form a loop")
		case a.at.Redirected():
			err = reason.Errorf(reason.RegistryError, "list of referrers was redirected, its next page cannot be asked for")
		}
		if err == nil {
			req.Path, req.Query, req.At = target.Path, target.Query(), a.at
			a, body, err = f.nextPage(ctx, req, found)
		}
		if err != nil {
			f.log.Debug("list of referrers not read to its end", zap.Int("pages", pages), zap.Error(err))
			list.problem = err
			return list
		}
	}
}

func (f *finder) nextPage(ctx context.Context, req registry.Request, found Discovery) (*answer, page, error) {
	a, err := f.getPatiently(ctx, req)
	if err != nil {
		return nil, page{}, err
	}
	decode := indexPage
	if found != FoundReferrersAPI {
		decode = orasPage
	}
	body, err := decode(a)
	return a, body, err
}

// getPatiently is get for lists: it waits once for a registry that asks to be
// asked again soon, if there is time for that.
func (f *finder) getPatiently(ctx context.Context, req registry.Request) (*answer, error) {
	a, err := get(ctx, f.repo, req, maxPageSize)
	code, _, header := status(err)
	if code != http.StatusTooManyRequests {
		return a, err
	}
	wait, said := retryAfter(header.Get("Retry-After"))
	deadline, bounded := ctx.Deadline()
	if !said || wait > maxRetryAfter || (bounded && time.Until(deadline) < wait) {
		return nil, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return get(ctx, f.repo, req, maxPageSize)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(value string) (wait time.Duration, said bool) {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(date)), true
	}
	return 0, false
}
