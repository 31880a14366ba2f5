package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/atomicfile"
)

// maxEdited bounds the files of others that are read whole: configuration has
// kilobytes, and the path may lead anywhere.
const maxEdited = 4 << 20

// Kind is what stands at a path.
type Kind string

// The kinds.
const (
	Absent    Kind = ""
	File      Kind = "file"
	Link      Kind = "link"
	Directory Kind = "directory"
)

// State is what stands at a path, whole. The zero value says that nothing does.
type State struct {
	Kind     Kind
	Mode     fs.FileMode // permission bits; of a link they mean nothing
	UID, GID int
	Data     []byte // a file's content, a link's target
}

// Equal tells whether somebody who reads both sees no difference.
func (s State) Equal(other State) bool {
	if s.Kind != other.Kind || !bytes.Equal(s.Data, other.Data) {
		return false
	}
	return s.Kind == Absent || s.Kind == Link || s.Mode == other.Mode
}

func text(data []byte) State { return State{Kind: File, Mode: 0o644, Data: data} }

// tree is a node's file system: that of this machine, or one that is mounted or
// being built below root. Paths are those of the node. Links are followed inside
// the tree only.
type tree struct{ root string }

// at is where the node's path is for this process: the links of its directory
// followed, the last element as it is.
func (t tree) at(path string) (string, error) {
	dir, err := securejoin.SecureJoin(t.root, filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// resolve is the node's path of the file that path leads to.
func (t tree) resolve(path string) (string, error) {
	full, err := securejoin.SecureJoin(t.root, path)
	if err != nil {
		return "", fmt.Errorf("follow %s: %w", path, err)
	}
	rel, err := filepath.Rel(t.root, full)
	if err != nil {
		return "", fmt.Errorf("follow %s: %w", path, err)
	}
	return "/" + rel, nil
}

// look returns what stands at path.
func (t tree) look(path string) (State, error) {
	full, err := t.at(path)
	if err != nil {
		return State{}, err
	}
	info, err := os.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("look at %s: %w", path, err)
	}
	s := State{Mode: info.Mode().Perm()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.UID, s.GID = int(stat.Uid), int(stat.Gid)
	}
	switch {
	case info.IsDir():
		s.Kind = Directory
	case info.Mode().IsRegular():
		s.Kind = File
		s.Data, err = os.ReadFile(full)
	case info.Mode().Type() == fs.ModeSymlink:
		var target string
		target, err = os.Readlink(full)
		s.Kind, s.Data = Link, []byte(target)
	default:
		err = fmt.Errorf("it is neither a file, a directory nor a link: %s", info.Mode().Type())
	}
	if err != nil {
		return State{}, fmt.Errorf("look at %s: %w", path, err)
	}
	return s, nil
}

// read returns the text of a configuration file, nil where there is none.
func (t tree) read(path string) ([]byte, error) {
	resolved, err := t.resolve(path)
	if err != nil {
		return nil, err
	}
	full, err := t.at(resolved)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case !info.Mode().IsRegular():
		return nil, nil
	case info.Size() > maxEdited:
		return nil, fmt.Errorf("read %s: it has %d bytes, more than any configuration", path, info.Size())
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// put makes path be s, whole or not at all. A directory that is to go and is not
// empty stays.
func (t tree) put(path string, s State) error {
	full, err := t.at(path)
	if err != nil {
		return err
	}
	switch s.Kind {
	case Absent:
		err = os.Remove(full)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			err = nil
		}
	case Directory:
		if err = os.Mkdir(full, s.Mode); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case Link:
		err = putLink(full, string(s.Data))
	case File:
		if err = atomicfile.Write(full, s.Data, s.Mode); err == nil {
			err = os.Lchown(full, s.UID, s.GID)
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return nil
}

// putLink replaces what is at path by a link.
func putLink(path, target string) error {
	temp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// glob returns the node's paths that match pattern, whose last element alone may
// have wildcards, sorted.
func (t tree) glob(pattern string) []string {
	full, err := t.at(pattern)
	if err != nil {
		return nil
	}
	found, err := filepath.Glob(full)
	if err != nil {
		return nil
	}
	for i := range found {
		found[i] = filepath.Join(filepath.Dir(pattern), filepath.Base(found[i]))
	}
	return found
}

// missing are dir and those above it that are not there, outermost first.
func (t tree) missing(dir string) ([]string, error) {
	var all []string
	for ; dir != "/"; dir = filepath.Dir(dir) {
		resolved, err := t.resolve(dir)
		if err != nil {
			return nil, err
		}
		s, err := t.look(resolved)
		if err != nil {
			return nil, err
		}
		if s.Kind == Directory {
			break
		}
		if s.Kind != Absent {
			return nil, fmt.Errorf("make directory %s: a %s is in the way", dir, s.Kind)
		}
		all = append([]string{dir}, all...)
	}
	return all, nil
}

// absolute makes the tree's root a clean absolute path.
func absolute(root string) (tree, error) {
	if root == "" {
		root = "/"
	}
	if !strings.HasPrefix(root, "/") {
		return tree{}, fmt.Errorf("the root must be an absolute path, is %q", root)
	}
	return tree{filepath.Clean(root)}, nil
}
