package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the part of a file system that a Store needs. Tests put one in its
// place that loses power.
type disk interface {
	Lock(path string) (io.Closer, error)
	MkdirAll(path string) error
	ReadDir(path string) ([]string, error)
	ReadFile(path string, limit int64) ([]byte, error)
	OpenFile(path string, create bool) (diskFile, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error
	ModTime(path string) (time.Time, error)
	SetModTime(path string, t time.Time) error
	// Space is what is free, to those who are not root, and the size of the file
	// system that holds path, in bytes.
	Space(path string) (free, size int64, err error)
}

// diskFile is an open file. Sync makes what was written before it durable.
type diskFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Size() (int64, error)
	Sync() error
}

// osDisk is the real one.
type osDisk struct{}

// Lock takes the file for this process alone, or returns ErrLocked.
func (osDisk) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// MkdirAll makes a directory that only root may enter: blobs can be private.
func (osDisk) MkdirAll(path string) error { return os.MkdirAll(path, 0o700) }

func (osDisk) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// ReadFile reads a file that is not longer than limit.
func (osDisk) ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("read %s: %d bytes long, at most %d expected", path, info.Size(), limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func (osDisk) OpenFile(path string, create bool) (diskFile, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osDisk) Rename(from, to string) error              { return os.Rename(from, to) }
func (osDisk) Remove(path string) error                  { return os.Remove(path) }
func (osDisk) SetModTime(path string, t time.Time) error { return os.Chtimes(path, t, t) }

func (osDisk) Space(path string) (free, size int64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(stat.Bavail) * stat.Frsize, int64(stat.Blocks) * stat.Frsize, nil //nolint:gosec // no file system is that large
}

func (osDisk) SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (osDisk) ModTime(path string) (time.Time, error) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync is fdatasync(2): it includes the metadata needed to find the data again.

func (f osFile) Sync() error {
	conn, err := f.SyscallConn() // File.Fd would make the descriptor blocking
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) { serr = unix.Fdatasync(int(fd)) })
	return errors.Join(err, serr)
}
