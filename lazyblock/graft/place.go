package graft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock/attach"
)

// place is the directory of one snapshot, <root>/snapshots/N. overlayfs keeps
// the tree in N/fs; a graft makes that a link into the bind mount N/lazy.
type place struct{ dir string }

const (
	bindName   = "lazy"
	graftLink  = "lazy/root"
	brokenLink = "placeholder" // names nothing: opening N/fs fails with ENOENT

	// N/plain is where a plain directory is made that will replace the link; once
	// it has, N/plain/tree is the link.
	plainName = "plain"
	treeName  = "tree"
)

func (p place) fs() string    { return filepath.Join(p.dir, "fs") }
func (p place) bind() string  { return filepath.Join(p.dir, bindName) }
func (p place) plain() string { return filepath.Join(p.dir, plainName) }
func (p place) tree() string  { return filepath.Join(p.dir, plainName, treeName) }

// link replaces the directory N/fs by a symbolic link to target, atomically.
func (p place) link(target string) error {
	next := p.fs() + ".link"
	if err := os.Symlink(target, next); err != nil {
		return fmt.Errorf("link snapshot directory: %w", err)
	}
	if err := exchange(next, p.fs()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Remove(next); err != nil { // now the empty directory that was N/fs
		return fmt.Errorf("remove former snapshot directory: %w", err)
	}
	return nil
}

func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s for %s: %w", b, a, err)
	}
	return nil
}

// mountVolume binds the volume's directory, with the volume mounted in it,
// read-only at N/lazy. Removing N then stops at the bind: containerd deletes the
// link and gets EROFS or EBUSY from the rest.
func (p place) mountVolume(volumeDir string) error {
	if err := os.Mkdir(p.bind(), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("bind volume: %w", err)
	}
	if err := unix.Mount(volumeDir, p.bind(), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", volumeDir, p.bind(), err)
	}
	if err := unix.Mount("", p.bind(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", p.bind(), err), p.unmount())
	}
	return nil
}

// unmount takes every mount off N/lazy. Containers keep their own clone.
func (p place) unmount() error { return attach.Unmount(p.bind()) }

// shows reports whether N/lazy shows the volume as it is mounted now.
func (p place) shows(volumeDir string) bool {
	var here, there unix.Stat_t
	if unix.Stat(filepath.Join(p.dir, graftLink), &here) != nil || unix.Stat(filepath.Join(volumeDir, "root"), &there) != nil {
		return false
	}
	return here.Dev == there.Dev && here.Ino == there.Ino
}

// isGraft reports whether N/fs is a link of ours.
func (p place) isGraft() bool { return isLink(p.fs()) }

func isLink(name string) bool {
	target, err := os.Readlink(name)
	return err == nil && target == graftLink
}

// swap exchanges the link N/fs for the directory N/plain/tree, durably.
func (p place) swap() error {
	info, err := os.Lstat(p.tree())
	if err != nil {
		return fmt.Errorf("look for plain directory: %w", err)
	}
	if !info.IsDir() || !p.isGraft() {
		return fmt.Errorf("%s is no directory, or %s not our link", p.tree(), p.fs())
	}
	if err := exchange(p.tree(), p.fs()); err != nil {
		return err
	}
	return errors.Join(syncDir(p.plain()), syncDir(p.dir))
}

// swapped reports whether swap was the last thing that happened here.
func (p place) swapped() bool {
	info, err := os.Lstat(p.fs())
	return err == nil && info.IsDir() && isLink(p.tree())
}

// tidy takes away what a plain directory does not need.
func (p place) tidy() error {
	if err := p.unmount(); err != nil {
		return err
	}
	if err := os.Remove(p.bind()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("tidy snapshot directory: %w", err)
	}
	return p.removePlain()
}

func (p place) removePlain() error {
	if err := os.RemoveAll(p.plain()); err != nil {
		return fmt.Errorf("remove unfinished plain directory: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// clear removes what a removal by containerd left of N. It deletes only what we
// made and empty directories, so it cannot hurt a snapshot that got N again.
func (p place) clear() error {
	if err := p.unmount(); err != nil {
		return err
	}
	if p.isGraft() {
		if err := os.Remove(p.fs()); err != nil {
			return fmt.Errorf("clear graft: %w", err)
		}
	}
	if err := p.removePlain(); err != nil {
		return err
	}
	for _, name := range []string{p.bind(), filepath.Join(p.dir, "work"), p.dir} {
		err := os.Remove(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("clear graft: %w", err)
		}
	}
	return nil
}
