package materialise

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
)

// unpack makes layer i's directory from its blob, which has its digest, and
// removes the blob. Those below must have been unpacked.
func (w *work) unpack(ctx context.Context, i int) error {
	blob, err := os.Open(w.blob(i))
	if err != nil {
		return err
	}
	defer blob.Close()
	left, err := w.room.left()
	if err != nil {
		return err
	}
	diff := w.layers[i].DiffID.Verifier()
	plain := &plainBytes{ctx: ctx, seen: diff, room: w.room, left: left}
	if plain.r, err = layerstream.Decompress(blob); err != nil {
		return reason.Errorf(reason.ArtifactInvalid, "decompress: %w", err)
	}
	defer plain.r.Close()
	if err := w.apply(ctx, i, plain); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // what is behind the tar's end mark
		return err
	}
	if !diff.Verified() {
		return reason.Errorf(reason.DigestMismatch, "its plain bytes are not those of diff ID %s", w.layers[i].DiffID)
	}
	return os.Remove(blob.Name())
}

// apply unpacks a tar with the code and the options that containerd's overlayfs
// snapshotter gets: the bottom layer is written to a bind mount, where a whiteout
// deletes; the others turn whiteouts into overlayfs's own and look for the
// metadata of directories that they only imply in those below.
func (w *work) apply(ctx context.Context, i int, plain *plainBytes) error {
	upper := w.upper(i)
	parents := make([]string, 0, i+len(w.parents))
	for below := i - 1; below >= 0; below-- {
		parents = append(parents, w.upper(below))
	}
	parents = append(parents, w.parents...)
	if err := makeUpper(upper, parents); err != nil {
		return err
	}
	var opts []archive.ApplyOpt
	if len(parents) > 0 {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	}
	_, err := archive.Apply(silent(ctx), upper, plain, opts...)
	switch {
	case plain.err != nil:
		return plain.err // says more than what the tar reader made of it
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return reason.Wrap(reason.ArtifactInvalid, err)
	default:
		return err
	}
}

// makeUpper makes a layer's directory as the snapshotter does: with the owner of
// the next one below (containerd 2.4 plugins/snapshots/overlay).
func makeUpper(path string, parents []string) error {
	const mode = 0o755
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	if len(parents) > 0 {
		var below unix.Stat_t
		if err := unix.Lstat(parents[0], &below); err != nil {
			return &os.PathError{Op: "lstat", Path: parents[0], Err: err}
		}
		if err := os.Lchown(path, int(below.Uid), int(below.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode) // Mkdir obeys the umask
}

// silent keeps containerd's code from logging on its own: it warns of every
// attribute that it does not set, as it does in an ordinary pull.
func silent(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

// checkRoom is after how many bytes the free space is looked at again: others
// write to the disk, too.
const checkRoom = 64 << 20

// plainBytes shows every byte to seen, and ends with ctx, with the room that
// there was in the beginning, or with the room that there is. It lives no longer
// than the call that made it.
type plainBytes struct {
	ctx  context.Context //nolint:containedctx // bound for the length of one layer
	r    io.ReadCloser
	seen io.Writer
	room room

	left    int64 // of the room that there was
	checked int64 // bytes since the room was last looked at
	err     error // other than EOF
}

func (p *plainBytes) Read(b []byte) (int, error) {
	n, err := p.read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	return n, err
}

func (p *plainBytes) read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	// Bytes that a tar makes us read without keeping them are counted as well:
	// else a bomb would cost no disk, only days.
	if p.left -= int64(n); p.left < 0 {
		return 0, fmt.Errorf("%w: layer is longer than that", ErrNoRoom)
	}
	if p.checked += int64(n); p.checked >= checkRoom {
		p.checked = 0
		if err := p.room.need(1); err != nil {
			return 0, err
		}
	}
	if _, werr := p.seen.Write(b[:n]); werr != nil {
		return 0, werr
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = reason.Errorf(reason.ArtifactInvalid, "decompress: %w", err)
	}
	return n, err
}
