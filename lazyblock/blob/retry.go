package blob

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// fewTries is how often a hurried read tries at all, and a patient one tries
// against an answer that will hardly change.
const fewTries = 3

// readAll fills p, trying again under the rules of ReadRange.
func (b *Blob) readAll(ctx context.Context, p []byte, off int64) (done int, err error) {
	t := b.newTrial(ctx)
	var told error // what the registry last said, as against our patience ending
	for {
		n, err := b.readSome(ctx, p[done:], off+int64(done), t.patience())
		done += n
		if done == len(p) {
			return done, nil
		}
		if err == nil || n >= minProgress {
			t = b.newTrial(ctx)
		}
		if err == nil {
			continue // a short range, rightly answered: ask for the rest
		}
		if told == nil || !errors.Is(err, errSilent) {
			told = err
		}
		due, again := t.next(ctx, err)
		if !again {
			return done, told
		}
		b.opts.Log.Debug("trying a range again", zap.Stringer("digest", b.desc.Digest),
			zap.Int64("off", off+int64(done)), zap.Duration("pause", due), zap.Error(err))
		if pause.For(ctx, due) != nil {
			return done, told // says more than "deadline exceeded"
		}
	}
}

// trial is a row of failures without progress between them.
type trial struct {
	opts    Options
	hurried bool
	failed  int
	giveUp  time.Time
	backoff time.Duration
}

func (b *Blob) newTrial(ctx context.Context) trial {
	_, hurried := ctx.Deadline()
	return trial{opts: b.opts, hurried: hurried, giveUp: time.Now().Add(b.opts.GiveUpAfter), backoff: b.opts.MinBackoff}
}

// patience is how long the next try may wait for an answer. A hurried one has
// its deadline.
func (t *trial) patience() time.Duration {
	if t.hurried {
		return t.opts.GiveUpAfter
	}
	return max(time.Until(t.giveUp), t.opts.MinBackoff)
}

// next says how long to pause before the next try, and whether to make one.
func (t *trial) next(ctx context.Context, err error) (pause time.Duration, again bool) {
	t.failed++
	if ctx.Err() != nil {
		return 0, false
	}
	lasting := lasts(err)
	if code := reason.Of(err); !t.hurried && (code == reason.Unauthorized || code == reason.NotFound) {
		// The next pull of the image may bring new credentials, and an ingress says
		// 404 while its registry restarts.
		lasting = false
	}
	if t.hurried && lasting {
		return 0, false
	}
	if (t.hurried || lasting) && t.failed >= fewTries {
		return 0, false
	}
	// Half of the pause is random, so that nodes that failed together do not
	// come back together.
	pause = t.backoff/2 + rand.N(t.backoff/2+1)
	t.backoff = min(2*t.backoff, t.opts.MaxBackoff)
	asked := retryAfter(err)
	if t.hurried {
		deadline, _ := ctx.Deadline()
		pause = max(pause, asked)
		return pause, time.Now().Add(pause).Before(deadline)
	}
	// The last try is just before the end, whatever pause was due or asked for.
	left := time.Until(t.giveUp) - t.opts.MinBackoff
	return min(max(pause, asked), left), left > 0
}

// lasts reports whether the same question is likely to get the same answer.
func lasts(err error) bool {
	switch reason.Of(err) {
	case reason.Unauthorized, reason.NotFound, reason.NoRange, reason.SizeMismatch, reason.BadRequest:
		return true
	}
	status, ok := errors.AsType[*registry.StatusError](err)
	return ok && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// retryAfter is the pause the server asked for (RFC 9110, 10.2.3), or 0.
func retryAfter(err error) time.Duration {
	status, ok := errors.AsType[*registry.StatusError](err)
	if !ok {
		return 0
	}
	text := status.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
