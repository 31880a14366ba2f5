package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/host"
)

// openCompletion completes volumes as the configuration says.
func openCompletion(config *configs.Config, d *daemonParts, log *zap.Logger) (*complete.Companion, error) {
	options := complete.Options{
		Root: config.Root, Delay: config.Completion.Delay.Duration, Spare: d.cache.Spare, Log: log,
		Replace: func(ctx context.Context, q complete.Quarantine) error {
			select { // the node is put together around the companion
			case <-d.ready:
				return replaceQuarantined(ctx, d.host, q)
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
	if config.Completion.Enabled {
		options.Rate, options.Settle = config.Completion.Rate.Bytes, settling(config, d)
	}
	return complete.New(options)
}

// replaceQuarantined puts an image's own layers in the place of a form. Nothing is
// left to do where the chain does not stand on it any more.
func replaceQuarantined(ctx context.Context, h *host.Host, q complete.Quarantine) error {
	words, err := h.Words(ctx, []digest.Digest{q.Chain})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(words, func(s host.Standing) bool { return s.Volume == q.Volume && !s.Suspect && !s.Materialised }) {
		return nil
	}
	originals, err := h.Originals(ctx, q.Reference)
	if err != nil {
		return err
	}
	for _, original := range originals {
		if slices.Contains(original.ChainIDs(), q.Chain) {
			return h.Materialise(ctx, q.Chain, *original, registry.Credentials{}, nil)
		}
	}
	return errors.New("containerd has no image with the chain under the reference that brought it; the next pull of one replaces it")
}

// completion is how much of the form that a pull attached is on the node.
type completion struct {
	*complete.State

	Whole       bool                 `json:"whole"`
	Quarantined *complete.Quarantine `json:"quarantined,omitempty"`
	Problem     string               `json:"problem,omitempty"` // what cannot be read of it
}

// completionOf is nil where nothing is known.
func completionOf(config *configs.Config, entry *fallback.Entry) *completion {
	if entry.Volume == "" {
		return nil
	}
	state, stateErr := complete.ReadState(config.Root, entry.Volume)
	quarantined, err := complete.ReadQuarantine(config.Root, entry.Volume)
	if err = errors.Join(stateErr, err); err == nil && state == nil && quarantined == nil {
		return nil
	}
	c := &completion{State: state, Whole: state != nil && state.Whole(), Quarantined: quarantined}
	if err != nil {
		c.Problem = oneLine(err)
	}
	return c
}

func (c *completion) text() string {
	if q := c.Quarantined; q != nil {
		text := fmt.Sprintf("QUARANTINED %s: %s served another content for blob %s", q.Time.Format(time.DateTime+" MST"), q.Repository, q.Blob)
		if q.Replaced == nil {
			return text + "\nthe image's own layers are not in its place yet"
		}
		return text + "\nnew containers do not read it; those that do must be replaced"
	}
	if c.Problem != "" || c.State == nil {
		return "complete: not known: " + c.Problem
	}
	if c.Whole {
		text := fmt.Sprintf("complete: sealed, %d blobs, %d bytes; reads need no registry", c.Blobs, c.Size)
		if c.Settled {
			text += "\nsettled: new containers read local files"
		} else if c.Waiting != "" {
			text += "\nnot settled: " + c.Waiting
		}
		return text
	}
	text := fmt.Sprintf("complete: %.0f %%, %d of %d bytes, %d of %d blobs sealed", 100*float64(c.Cached)/float64(max(c.Size, 1)), c.Cached, c.Size, c.Sealed, c.Blobs)
	if c.Waiting != "" {
		text += "\nwaiting: " + c.Waiting
	}
	return text
}
