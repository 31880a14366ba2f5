package fallback

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

// lookAgainAfter is when containerd should have ended what it was doing for a
// caller that went away.
const lookAgainAfter = 5 * time.Second

// unconfirmed is a pull that may have been forwarded and of which nobody has
// found out yet whether its image may be used. It is on disk before the pull is
// forwarded, and goes when that is known: were the daemon killed between, an
// image could be there that the kubelet takes for pulled.
type unconfirmed struct {
	Reference string        `json:"reference"`
	Before    digest.Digest `json:"before,omitempty"` // what containerd held under it

	path string
}

// openUnconfirmed notes durably that reference is about to be pulled.
func (j *Journal) openUnconfirmed(reference string, before digest.Digest, started time.Time) (unconfirmed, error) {
	sum := sha256.Sum256([]byte(reference))
	u := unconfirmed{Reference: reference, Before: before}
	u.path = filepath.Join(j.unconfirmedDir(), fmt.Sprintf("%s-%d%s", hex.EncodeToString(sum[:8]), started.UnixNano(), suffix))
	text, err := json.Marshal(u)
	if err == nil {
		err = os.MkdirAll(j.unconfirmedDir(), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(u.path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return unconfirmed{}, fmt.Errorf("note that %s is being pulled: %w", reference, err)
	}
	return u, nil
}

// close forgets u. That it could be forgotten is of no consequence: it is looked
// at once more.
func (u unconfirmed) close() {
	if u.path != "" {
		_ = os.Remove(u.path)
	}
}

func (j *Journal) unconfirmedDir() string { return filepath.Join(j.dir, "unconfirmed") }

// allUnconfirmed returns what a former process left, and an error that names the
// files that cannot be read.
func (j *Journal) allUnconfirmed() (left []unconfirmed, err error) {
	files, err := os.ReadDir(j.unconfirmedDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read unconfirmed pulls: %w", err)
	}
	var unreadable []error
	for _, file := range files {
		u := unconfirmed{path: filepath.Join(j.unconfirmedDir(), file.Name())}
		if atomicfile.IsUnfinished(file.Name()) || !strings.HasSuffix(file.Name(), suffix) {
			u.close() // nothing was forwarded before it was whole
			continue
		}
		text, err := os.ReadFile(u.path)
		if err == nil {
			err = json.Unmarshal(text, &u)
		}
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("read unconfirmed pull %s: %w", file.Name(), err))
			continue
		}
		left = append(left, u)
	}
	return left, errors.Join(unreadable...)
}

// Recover finds out about the pulls that a former process forwarded and did not
// live to confirm. It is to be called before pulls are served; after an error it
// should be called again.
func (g *Guard) Recover(ctx context.Context) error {
	left, err := g.journal.allUnconfirmed()
	errs := []error{err}
	for _, u := range left {
		p := &passage{Guard: g, started: g.limits.Now(), unconfirmed: u}
		named, err := reference.ParseDockerRef(u.Reference)
		if err != nil {
			errs = append(errs, fmt.Errorf("unconfirmed pull of %q: %w", u.Reference, err))
			continue
		}
		p.named, p.entry.Reference = named, u.Reference
		p.pull.Reference = u.Reference
		if err := p.withdraw(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		u.close()
	}
	return errors.Join(errs...)
}

// withdraw takes what the pull brought away from containerd, unless it may be
// used: the kubelet would start what it finds without pulling it again. What was
// there before the pull stays.
func (p *passage) withdraw(ctx context.Context) error {
	target, err := p.brought(ctx)
	if err != nil || target == "" {
		return err
	}
	why := p.suspicion(ctx)
	if why == nil {
		return nil
	}
	return p.forget(ctx, target, why)
}

// brought returns what containerd holds under the reference and did not before
// the pull, "" for nothing.
func (p *passage) brought(ctx context.Context) (digest.Digest, error) {
	target, err := step(ctx, p.Guard, "looking at the image record", confirmTimeout, func(ctx context.Context) (digest.Digest, error) {
		return p.node.Target(ctx, p.named.String())
	}, nil)
	if err != nil {
		return "", fmt.Errorf("find out what was pulled: %w", err)
	}
	if target == p.unconfirmed.Before {
		return "", nil
	}
	return target, nil
}

// suspicion says why the image must not be used, nil if it may.
func (p *passage) suspicion(ctx context.Context) error {
	pulled, err := p.pulled(ctx)
	for _, image := range pulled {
		if err == nil {
			var s *Standing
			if s, err = p.stands(ctx, image); s == nil && err != nil {
				err = fmt.Errorf("find out what the image stands on: %w", err)
			}
		}
	}
	return err
}

// forget removes the image's records.
func (p *passage) forget(ctx context.Context, target digest.Digest, why error) error {
	p.log.Error("withdrawing an image that was pulled and must not be used",
		zap.String("ref", p.entry.Reference), zap.Stringer("digest", target), zap.NamedError("why", why))
	_, err := step(ctx, p.Guard, "withdrawing the image", confirmTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, p.node.Forget(ctx, p.named.String(), target)
	}, nil)
	if err != nil {
		return reason.Errorf(reason.Unvouched, "withdraw image %s: %w", p.entry.Reference, err)
	}
	return nil
}

// pulled returns the images that containerd may have unpacked for the reference:
// this platform's, or, where its index has none, all that are here.
func (p *passage) pulled(ctx context.Context) ([]*negotiate.Image, error) {
	return step(ctx, p.Guard, "looking at the pulled image", confirmTimeout, func(ctx context.Context) ([]*negotiate.Image, error) {
		return p.node.Originals(ctx, p.named.String())
	}, nil)
}

// finish closes the note of the pull once it is known that its image may be used
// or is not there. containerd may still be at work for callers that went away:
// it is looked at again a little later.
func (p *passage) finish(confirmed bool, pullErr error) {
	if p.unconfirmed.path == "" {
		return
	}
	if !confirmed {
		if err := p.withdraw(context.Background()); err != nil {
			p.warn("withdraw the image", err)
			return // noted still: the next start looks again
		}
	}
	if confirmed || pullErr == nil {
		p.unconfirmed.close()
		return
	}
	late := &passage{Guard: p.Guard, started: p.started, named: p.named, pull: p.pull, unconfirmed: p.unconfirmed, entry: Entry{Reference: p.entry.Reference}}
	p.steps.Go(func() { // ends with the timer or Close, which waits for it
		timer := time.NewTimer(lookAgainAfter)
		defer timer.Stop()
		select {
		case <-p.closing:
			return
		case <-timer.C:
		}
		if err := late.withdraw(context.Background()); err != nil {
			p.log.Error("an image may be there that was not confirmed", zap.String("ref", late.entry.Reference), zap.Error(err))
			return
		}
		late.unconfirmed.close()
	})
}
