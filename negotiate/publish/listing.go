package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// maxList bounds the lists read, in bytes, as readers do.
const maxList = 4 << 20

// maxListPages bounds the pages of a list, as readers do.
const maxListPages = 16

// tagAttempts is how often a fallback tag is written when others write it too.
const tagAttempts = 5

// attach pushes the manifest and sees to it that asking about its subject names it.
func (p *pusher) attach(ctx context.Context, a *artifact) error {
	if err := p.repo.Manifests().Push(ctx, a.descriptor, bytes.NewReader(a.content)); err != nil {
		return fmt.Errorf("push manifest: %w", err)
	}
	p.report(Event{Descriptor: a.descriptor, Sent: a.descriptor.Size, Done: true})
	listed, err := p.listed(ctx, a)
	if err != nil {
		return fmt.Errorf("ask for referrers: %w", err)
	}
	if listed {
		return nil
	}
	return p.listInTag(ctx, a)
}

// listed asks the registry whether it names the artifact by itself.
func (p *pusher) listed(ctx context.Context, a *artifact) (bool, error) {
	if a.descriptor.MediaType == mediaTypeORAS {
		return p.listedByORAS(ctx, a)
	}
	found := errors.New("found")
	err := p.repo.Referrers(ctx, a.subject, "", func(page []ocispec.Descriptor) error {
		if contains(page, a.descriptor.Digest) {
			return found
		}
		return nil
	})
	refused, answered := errors.AsType[*errcode.ErrorResponse](err)
	switch {
	case errors.Is(err, found):
		return true, nil
	case errors.Is(err, errdef.ErrUnsupported), errors.Is(err, errdef.ErrNotFound), answered && refused.StatusCode < 500:
		return false, nil // no such API, or none for us: the tag will do
	default:
		return false, err
	}
}

// listedByORAS tells whether the registry keeps a list of ORAS artifacts at one of
// its endpoints: then the artifact is in it, as the registry took it.
func (p *pusher) listedByORAS(ctx context.Context, a *artifact) (bool, error) {
	ref := p.repo.Reference
	ctx = auth.AppendRepositoryScope(ctx, ref, auth.ActionPull)
	for _, at := range []string{
		"/v2/" + ref.Repository + "/_oras/artifacts/referrers?" + url.Values{"digest": {a.subject.Digest.String()}}.Encode(),
		"/oras/artifacts/v1/" + ref.Repository + "/manifests/" + a.subject.Digest.String() + "/referrers",
	} {
		kept, err := p.keepsList(ctx, at)
		if kept || err != nil {
			return kept, err
		}
	}
	return false, nil
}

func (p *pusher) keepsList(ctx context.Context, at string) (bool, error) {
	scheme := "https://"
	if p.repo.PlainHTTP {
		scheme = "http://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+p.repo.Reference.Host()+at, nil)
	if err != nil {
		return false, err
	}
	client := p.repo.Client
	if client == nil {
		client = auth.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return false, nil
	}
	var lists map[string]json.RawMessage
	if json.NewDecoder(io.LimitReader(resp.Body, maxList)).Decode(&lists) != nil {
		return false, nil // somebody's web page
	}
	return lists["referrers"] != nil || lists["references"] != nil, nil
}

// listInTag adds the artifact to the index under the subject's fallback tag
// (distribution-spec 1.1, "Referrers Tag Schema"), and looks whether it has stayed.
func (p *pusher) listInTag(ctx context.Context, a *artifact) error {
	tag := fallbackTag(a.subject.Digest)
	for range tagAttempts {
		index, err := p.readTag(ctx, tag)
		if err != nil {
			return fmt.Errorf("read referrers tag %s: %w", tag, err)
		}
		if contains(index.Manifests, a.descriptor.Digest) {
			return nil
		}
		entry := a.descriptor
		entry.Annotations = a.annotations
		index.Manifests = append(index.Manifests, entry)
		content, err := json.Marshal(index)
		if err != nil {
			return err
		}
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(content), Size: int64(len(content))}
		if err := p.repo.Manifests().PushReference(ctx, d, bytes.NewReader(content), tag); err != nil {
			return fmt.Errorf("write referrers tag %s: %w", tag, err)
		}
	}
	return fmt.Errorf("referrers tag %s is overwritten by others each time", tag)
}

// fallbackTag is the referrers tag of a digest, its encoded part cut to 64
// characters as the specification says. Algorithms in use need no replacement.
func fallbackTag(d digest.Digest) string {
	encoded := d.Encoded()
	return d.Algorithm().String() + "-" + encoded[:min(len(encoded), 64)]
}

// readTag returns the index under tag, an empty one where there is none. What is
// not an index belongs to somebody else and is never overwritten.
func (p *pusher) readTag(ctx context.Context, tag string) (*ocispec.Index, error) {
	empty := &ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
	}
	d, body, err := p.repo.Manifests().FetchReference(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return empty, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // read only
	if d.MediaType != ocispec.MediaTypeImageIndex || d.Size > maxList {
		return nil, fmt.Errorf("it holds a %s of %d bytes, not a list of referrers", d.MediaType, d.Size)
	}
	raw, err := content.ReadAll(body, d)
	if err != nil {
		return nil, err
	}
	index := empty
	if err := json.Unmarshal(raw, index); err != nil {
		return nil, fmt.Errorf("decode list of referrers: %w", err)
	}
	return index, nil
}

func contains(list []ocispec.Descriptor, want digest.Digest) bool {
	for _, d := range list {
		if d.Digest == want {
			return true
		}
	}
	return false
}
