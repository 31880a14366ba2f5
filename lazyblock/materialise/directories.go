package materialise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
)

// Unpacked is a layer as containerd has unpacked it.
type Unpacked struct {
	Dir     string   // the layer's own directory
	Parents []string // what it lies over, the highest first
	Scratch string   // an empty directory on the same file system
}

// Directories makes the directories of a layer what they are over u.Parents, where
// containerd unpacked it over something else. A layer's tar need not name the
// directories that its files are in. containerd gives those the owner, mode and
// attributes that they have below (containerd 2.4 pkg/archive, mkparent); all
// else in u.Dir is the layer's own. Mounts over u.Dir see the change.
//
// The layer is fetched from src and verified first: after an error nothing has
// changed, unless the file system failed. Errors are those of Layers.
func Directories(ctx context.Context, u Unpacked, layer Layer, src Source, opts Options) (err error) {
	opts.setDefaults()
	layers := []Layer{layer}
	if err := check(layers); err != nil {
		return err
	}
	w := &work{
		layers: layers, parents: u.Parents, src: src, opts: opts,
		blobs: filepath.Join(u.Scratch, "blobs"), uppers: filepath.Join(u.Scratch, "layers"),
		room: room{dir: u.Scratch, reserve: opts.Reserve},
	}
	defer func() {
		err = errors.Join(noRoom(err), w.clean(false))
	}()
	if err := w.unpackAll(ctx); err != nil {
		return err
	}
	if err := compare(w.upper(0), u.Dir, nil); err != nil {
		return err
	}
	if err := compare(w.upper(0), u.Dir, copyMetadata); err != nil {
		return err
	}
	return syncFS(u.Dir)
}

// compare goes through the directories in want. have must hold the same ones, and
// does with each pair of them.
func compare(want, have string, does func(from, to string, stat unix.Stat_t) error) error {
	return filepath.WalkDir(want, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		other := filepath.Join(have, name)
		var wanted, had unix.Stat_t
		if err := errors.Join(unix.Lstat(path, &wanted), unix.Lstat(other, &had)); err != nil {
			return fmt.Errorf("compare directory %s: %w", name, err)
		}
		if had.Mode&unix.S_IFMT != unix.S_IFDIR {
			return reason.Errorf(reason.LayerMismatch, "%s should be the directory %s of its layer", other, name)
		}
		if does == nil {
			return nil
		}
		return does(path, other, wanted)
	})
}
