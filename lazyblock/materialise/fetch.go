package materialise

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

const (
	maxTries    = 6                // failures in a row without progress
	maxCorrupt  = 2                // whole blobs that had another digest
	maxBackoff  = 10 * time.Second // between tries
	minProgress = 64 << 10         // bytes that a transfer must bring to count as alive
)

var errStalled = errors.New("transfer stalled")

// fetch brings layer i's blob to its file, whole and with its digest.
func (w *work) fetch(ctx context.Context, i int) error {
	desc := w.layers[i].Descriptor
	f, err := os.OpenFile(w.blob(i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	d := &download{w: w, desc: desc, file: f, hash: desc.Digest.Algorithm().Hash()}
	if err := errors.Join(d.run(ctx), f.Close()); err != nil {
		return fmt.Errorf("fetch layer %s: %w", desc.Digest, err)
	}
	return nil
}

// download is one blob on its way.
type download struct {
	w    *work
	desc ocispec.Descriptor
	file *os.File
	hash hash.Hash // of the bytes in file
	have int64     // how many they are
	from *registry.Location
}

// run tries until the blob is there. What came before a transfer broke is kept.
func (d *download) run(ctx context.Context) error {
	failed, corrupt := 0, 0
	for backoff := d.w.opts.MinBackoff; ; backoff = min(2*backoff, maxBackoff) {
		before := d.have
		err := d.transfer(ctx)
		if err == nil {
			if err = d.verify(); err == nil {
				return nil
			}
			if corrupt++; corrupt == maxCorrupt {
				return err
			}
			d.from.Failed() // perhaps one of several mirrors
			if err := d.restart(); err != nil {
				return err
			}
		}
		if failed++; d.have-before >= minProgress {
			failed, backoff = 1, d.w.opts.MinBackoff
		}
		if ctx.Err() != nil || failed == maxTries || lasts(err) {
			return err
		}
		d.w.opts.Log.Debug("transfer of a layer goes on", zap.Stringer("digest", d.desc.Digest), zap.Int64("off", d.have), zap.Error(err))
		// Half of it at random, so that nodes that failed together do not come
		// back together.
		if pause.For(ctx, backoff/2+rand.N(backoff/2+1)) != nil {
			return err // says more
		}
	}
}

// lasts reports whether the same question is likely to get the same answer, or
// the fault is not the registry's.
func lasts(err error) bool {
	switch reason.Of(err) {
	case reason.RegistryUnreachable, reason.RegistryError, reason.DigestMismatch:
		return false
	}
	return true
}

// transfer asks for what is missing and appends it to the file.
func (d *download) transfer(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil) // ends the connection where its body was not read to the end
	stall := time.AfterFunc(d.w.opts.StallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	resp, err := d.ask(ctx)
	if err == nil {
		d.from = resp.At
		err = d.append(resp.Body, func() { stall.Reset(d.w.opts.StallTimeout) })
		_ = resp.Body.Close() // costs at most the connection
		if reason.Of(err) == reason.RegistryUnreachable {
			resp.At.Failed()
		}
	}
	switch {
	case err == nil:
		return nil
	case parent.Err() != nil:
		return parent.Err()
	case errors.Is(context.Cause(ctx), errStalled):
		return reason.Errorf(reason.RegistryUnreachable, "%w: nothing within %s", errStalled, d.w.opts.StallTimeout)
	default:
		return err
	}
}

// ask requests the blob from where the file ends. It may have to begin anew.
func (d *download) ask(ctx context.Context) (*registry.Response, error) {
	req := registry.Request{Path: "blobs/" + d.desc.Digest.String(), Capability: registry.Pull, Accept: d.fits}
	if d.have > 0 {
		req.Header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", d.have)}}
	}
	resp, err := d.w.src.Do(ctx, req)
	if status, ok := errors.AsType[*registry.StatusError](err); ok && status.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return nil, errors.Join(reason.Errorf(reason.RegistryError, "cannot go on at %d: %w", d.have, err), d.restart())
	}
	if err != nil || d.have == 0 || resp.StatusCode == http.StatusPartialContent {
		return resp, err
	}
	if err := d.restart(); err != nil { // the whole blob comes
		_ = resp.Body.Close() // costs at most the connection
		return nil, err
	}
	return resp, nil
}

// fits refuses an answer that is not the blob, or the part of it, that was
// asked for, so that the next host is.
func (d *download) fits(resp *registry.Response) error {
	want := d.desc.Size
	if resp.StatusCode == http.StatusPartialContent {
		want -= d.have
		expected := fmt.Sprintf("bytes %d-%d/%d", d.have, d.desc.Size-1, d.desc.Size)
		if got := resp.Header.Get("Content-Range"); d.have == 0 || got != expected {
			return reason.Errorf(reason.RegistryError, "%s answers with range %q, asked for %q", resp.Host, got, expected)
		}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != want {
		return reason.Errorf(reason.SizeMismatch, "%s answers with %d bytes, the descriptor says %d", resp.Host, resp.ContentLength, want)
	}
	return nil
}

// append writes the body to the end of the file. alive is called as long as it
// brings something.
func (d *download) append(body io.Reader, alive func()) error {
	buf := make([]byte, 256<<10)
	for since := 0; ; {
		n, err := body.Read(buf)
		if d.have+int64(n) > d.desc.Size {
			return reason.Errorf(reason.SizeMismatch, "more than %d bytes", d.desc.Size)
		}
		if _, err := d.file.Write(buf[:n]); err != nil {
			return err
		}
		_, _ = d.hash.Write(buf[:n]) // never fails: hash.Hash
		d.have += int64(n)
		if since += n; since >= minProgress {
			since = 0
			alive()
		}
		if n > 0 {
			d.w.report(func(p *Progress) { p.Fetched += int64(n) })
		}
		switch {
		case err == nil:
		case d.have == d.desc.Size:
			return nil
		case errors.Is(err, io.EOF):
			return reason.Wrap(reason.RegistryUnreachable, io.ErrUnexpectedEOF)
		default:
			return reason.Wrap(reason.RegistryUnreachable, err)
		}
	}
}

func (d *download) verify() error {
	if got := digest.NewDigest(d.desc.Digest.Algorithm(), d.hash); got != d.desc.Digest {
		return reason.Errorf(reason.DigestMismatch, "blob has digest %s", got)
	}
	return nil
}

// restart forgets what came.
func (d *download) restart() error {
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	d.w.report(func(p *Progress) { p.Fetched -= d.have })
	d.have = 0
	d.hash.Reset()
	return nil
}
