package regtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MediaTypeORASArtifact is the media type of ORAS artifact manifests (artifacts-spec 1.0.0-rc.2).
const MediaTypeORASArtifact = "application/vnd.cncf.oras.artifact.manifest.v1+json"

// maxManifest is the largest manifest accepted, in bytes (distribution-spec 1.1: at least 4 MiB).
const maxManifest = 4 << 20

// referrerIndex lists manifests by the subject they name, in order of arrival.
type referrerIndex struct {
	mu      sync.Mutex
	entries map[string][]ocispec.Descriptor // repo@subject
}

func (x *referrerIndex) add(repo string, subject digest.Digest, d ocispec.Descriptor) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries == nil {
		x.entries = map[string][]ocispec.Descriptor{}
	}
	key := repo + "@" + subject.String()
	for _, have := range x.entries[key] {
		if have.Digest == d.Digest {
			return
		}
	}
	x.entries[key] = append(x.entries[key], d)
}

func (x *referrerIndex) remove(repo, artifact string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, list := range x.entries {
		if len(key) > len(repo) && key[:len(repo)+1] == repo+"@" {
			x.entries[key] = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.Digest.String() == artifact })
		}
	}
}

// list returns the referrers of subject that keep wants.
func (x *referrerIndex) list(repo, subject string, keep func(ocispec.Descriptor) bool) []ocispec.Descriptor {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := []ocispec.Descriptor{} // never null on the wire
	for _, d := range x.entries[repo+"@"+subject] {
		if keep(d) {
			found = append(found, d)
		}
	}
	return found
}

// putManifest stores a manifest and indexes it by subject.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, ep endpoint, features Features) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxManifest+1))
	if err != nil || len(body) > maxManifest {
		writeError(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", "manifest too large or unreadable")
		return
	}
	mediaType := req.Header.Get("Content-Type")
	if mediaType == MediaTypeORASArtifact && !features.ORASPush {
		writeError(w, http.StatusUnsupportedMediaType, "MANIFEST_INVALID", "unknown media type "+mediaType)
		return
	}
	if want, err := digest.Parse(ep.ref); err == nil && want != want.Algorithm().FromBytes(body) {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", "manifest is not "+ep.ref)
		return
	}
	subject, descriptor := describeReferrer(mediaType, body)
	if subject != "" && features.Referrers && mediaType != MediaTypeORASArtifact {
		w.Header().Set("OCI-Subject", subject.String())
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	status := &statusWriter{ResponseWriter: w}
	r.manifests.ServeHTTP(status, req)
	if subject != "" && status.status == http.StatusCreated {
		r.referrers.add(ep.repo, subject, descriptor)
	}
}

// describeReferrer returns the subject that a manifest names ("" if none) and
// the entry that a list of referrers holds for it (distribution-spec 1.1, "Listing Referrers").
func describeReferrer(mediaType string, body []byte) (digest.Digest, ocispec.Descriptor) {
	var m struct {
		ArtifactType string              `json:"artifactType"`
		Config       *ocispec.Descriptor `json:"config"`
		Subject      *ocispec.Descriptor `json:"subject"`
		Annotations  map[string]string   `json:"annotations"`
	}
	if json.Unmarshal(body, &m) != nil || m.Subject == nil {
		return "", ocispec.Descriptor{}
	}
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	return m.Subject.Digest, ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
}

// serveReferrers answers the OCI 1.1 referrers API.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, ep endpoint, features Features) {
	if _, err := digest.Parse(ep.ref); err != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	types := req.URL.Query()["artifactType"]
	filter := features.FilterReferrers && len(types) > 0
	all := r.referrers.list(ep.repo, ep.ref, func(d ocispec.Descriptor) bool {
		return d.MediaType != MediaTypeORASArtifact && (!filter || slices.Contains(types, d.ArtifactType))
	})
	page, next := paginate(req, all, features.PageSize)
	if next != "" {
		w.Header().Add("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
	}
	if filter {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(w, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: page,
	})
}

// serveORAS answers the pre-OCI endpoints of the ORAS artifacts specification:
// key "referrers" and a version header since rc.1, "references" before.
func (r *Registry) serveORAS(w http.ResponseWriter, req *http.Request, ep endpoint, features Features) {
	if _, err := digest.Parse(ep.ref); err != nil {
		writeError(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	types := req.URL.Query()["artifactType"]
	all := r.referrers.list(ep.repo, ep.ref, func(d ocispec.Descriptor) bool {
		return d.MediaType == MediaTypeORASArtifact && (len(types) == 0 || slices.Contains(types, d.ArtifactType))
	})
	page, next := paginate(req, all, features.PageSize)
	answer := map[string]any{}
	if ep.kind == "oras-v2" {
		answer["referrers"] = page
		w.Header().Set("ORAS-Api-Version", "oras/1.0")
	} else {
		answer["references"] = page
	}
	switch {
	case next == "":
	case ep.kind == "oras-v1" && features.ORASNextLink:
		answer["@nextLink"] = next
	default:
		w.Header().Add("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
	}
	writeJSON(w, "application/json", answer)
}

// paginate cuts the page that req asks for; next is the relative URL of the one
// after it, or empty. The client's n may only make pages smaller.
func paginate(req *http.Request, all []ocispec.Descriptor, size int) (page []ocispec.Descriptor, next string) {
	query := req.URL.Query()
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 && (size == 0 || n < size) {
		size = n
	}
	start, err := strconv.Atoi(query.Get("nextToken"))
	if err != nil || start < 0 || start > len(all) {
		start = 0
	}
	if size == 0 || start+size >= len(all) {
		return all[start:], ""
	}
	query.Set("nextToken", strconv.Itoa(start+size))
	link := url.URL{Path: req.URL.Path, RawQuery: query.Encode()}
	return all[start : start+size], link.String()
}

func writeJSON(w http.ResponseWriter, mediaType string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may have gone: its business
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
