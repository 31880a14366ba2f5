package negotiate

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// Attached returns the contents of artifacts of one type that are attached to
// subject in repo, newest first: of those that have a single layer, of at most
// limit bytes. At most most of them are looked at. Nobody vouches for them. Where
// one cannot be had the others are returned, and the error.
func (n *Negotiator) Attached(ctx context.Context, repo *registry.Repository, subject digest.Digest, artifactType string, most int, limit int64) ([][]byte, error) {
	f := &finder{n: n, repo: repo, legacy: LegacyOff, log: n.log}
	list := f.find(ctx, subject)
	problem := list.problem
	var contents [][]byte
	for _, e := range list.entries {
		if e.artifactType != artifactType {
			continue
		}
		if most--; most < 0 {
			break
		}
		content, err := f.content(ctx, e, subject, limit)
		if err != nil {
			problem = err
			continue
		}
		contents = append(contents, content)
	}
	return contents, problem
}

// content fetches the only layer of an artifact that is attached to subject.
func (f *finder) content(ctx context.Context, e entry, subject digest.Digest, limit int64) ([]byte, error) {
	m, err := f.smallManifest(ctx, e)
	switch {
	case err != nil:
		return nil, err
	case m.Subject == nil || m.Subject.Digest != subject:
		return nil, reason.Errorf(reason.SubjectMismatch, "artifact %s is not attached to %s", e.digest, subject)
	case len(m.Files) != 1:
		return nil, reason.Errorf(reason.ArtifactInvalid, "artifact %s has %d layers, not one", e.digest, len(m.Files))
	}
	blob, err := getVerified(ctx, f.repo, m.Files[0], limit, registry.Request{
		Path: "blobs/" + m.Files[0].Digest.String(), Capability: registry.Pull,
	})
	if err != nil {
		return nil, err
	}
	return blob.body, nil
}
