package cache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
)

const mapName = "map"

func (id dataID) fileName() string { return "data-" + hex.EncodeToString(id[:]) }

// sparse is the file of one blob with its two maps: what is in it, and what the
// map on disk may say is in it. The second never has a block whose bytes could
// be lost.
type sparse struct {
	disk      disk
	dir       string
	size      int64
	blockSize int64
	id        dataID
	data      diskFile

	present bitmap
	dirty   atomic.Bool // present has blocks that durable has not

	// broken: the file or its map could not be made durable. Nothing is written
	// any more; what was durable before is still read.
	broken atomic.Bool

	flushing sync.Mutex // for what follows, and held over the writing of a map
	durable  []uint64
	forgets  uint64      // how often blocks were forgotten
	sealed   atomic.Bool // durably; read without flushing
	zeros    bool        // while sealed: what is not present is zeros
}

var errBroken = errors.New("cache file could not be synced")

func (s *sparse) name() string  { return filepath.Base(s.dir) }
func (s *sparse) blocks() int64 { return (s.size + s.blockSize - 1) / s.blockSize }

// openSparse opens the file in dir, or makes it anew where there is none that
// can be believed.
func openSparse(d disk, dir string, size, blockSize int64) (*sparse, error) {
	s := &sparse{disk: d, dir: dir, size: size, blockSize: blockSize}
	s.present = newBitmap(s.blocks())
	if err := d.MkdirAll(dir); err != nil {
		return nil, err
	}
	if s.reopen() {
		return s, nil
	}
	if err := removeEntry(d, dir, false); err != nil {
		return nil, err
	}
	if _, err := rand.Read(s.id[:]); err != nil {
		return nil, err
	}
	data, err := d.OpenFile(filepath.Join(dir, s.id.fileName()), true)
	if err != nil {
		return nil, err
	}
	if err := data.Truncate(size); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	s.data, s.durable = data, make([]uint64, len(s.present))
	return s, nil
}

// reopen reports whether dir holds a map and the file that it is about.
func (s *sparse) reopen() bool {
	m, err := readMap(s.disk, s.dir, s.size, s.blockSize)
	if err != nil {
		return false
	}
	data, err := s.disk.OpenFile(filepath.Join(s.dir, m.id.fileName()), false)
	if err != nil {
		return false
	}
	if size, err := data.Size(); err != nil || size != s.size {
		_ = data.Close() // it will be removed
		return false
	}
	s.id, s.data, s.durable = m.id, data, m.words
	s.present.load(m.words)
	s.zeros = m.zeros
	s.sealed.Store(m.sealed)
	return true
}

func readMap(d disk, dir string, size, blockSize int64) (*mapFile, error) {
	raw, err := d.ReadFile(filepath.Join(dir, mapName), mapLength(size, blockSize))
	if err != nil {
		return nil, err
	}
	return decodeMap(raw, filepath.Base(dir), size, blockSize)
}

// write puts p, whole blocks or up to the end, into the file. Afterwards they
// are present.
func (s *sparse) write(p []byte, off int64) error {
	if s.broken.Load() {
		return errBroken
	}
	if _, err := s.data.WriteAt(p, off); err != nil {
		return err
	}
	first, end := s.span(off, int64(len(p)))
	s.present.add(first, end)
	s.dirty.Store(true)
	if s.broken.Load() { // flush may have passed by before the blocks were added
		s.present.remove(first, end)
		return errBroken
	}
	return nil
}

// span is the range of blocks that [off, off+n) touches.
func (s *sparse) span(off, n int64) (first, end int64) {
	return off / s.blockSize, (off + n + s.blockSize - 1) / s.blockSize
}

// flush makes durable what is present now, and then says so on disk.
func (s *sparse) flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	if s.broken.Load() || !s.dirty.Swap(false) {
		return nil
	}
	words := s.present.words()
	if err := s.syncData(); err != nil {
		return err
	}
	if err := s.writeMap(words); err != nil {
		s.dirty.Store(true)
		return err
	}
	s.durable = words
	return nil
}

// syncData makes durable what was written. The caller holds flushing.
func (s *sparse) syncData() error {
	err := s.data.Sync()
	if err == nil {
		return nil
	}
	// The kernel tells once and may then forget pages it could not write: only
	// what was durable before can be relied on.
	s.broken.Store(true)
	s.present.load(s.durable)
	return fmt.Errorf("sync %s: %w", s.dir, err)
}

// forget takes blocks out of both maps, on disk before it returns: their bytes
// will be written over, and a crash during that must not leave them believed.
// gone is how many bytes they were.
func (s *sparse) forget(first, end int64) (gone int64, err error) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.forgets++
	s.sealed.Store(false)
	s.zeros = false
	for block := first; block < end; block++ {
		if s.present.remove(block, block+1) > 0 {
			gone += min(s.blockSize, s.size-block*s.blockSize)
		}
	}
	if s.broken.Load() {
		return gone, errBroken
	}
	words := append([]uint64(nil), s.durable...)
	for block := first; block < end; block++ {
		words[block/64] &^= 1 << (block % 64)
	}
	if err := s.writeMap(words); err != nil {
		s.broken.Store(true)
		return gone, fmt.Errorf("forget blocks of %s: %w", s.dir, err)
	}
	s.durable = words
	return gone, nil
}

func (s *sparse) writeMap(words []uint64) error {
	m := mapFile{size: s.size, blockSize: s.blockSize, id: s.id, sealed: s.sealed.Load(), zeros: s.zeros, words: words}
	temp := filepath.Join(s.dir, mapName+".new")
	if err := writeFile(s.disk, temp, m.encode(s.name())); err != nil {
		return err
	}
	if err := s.disk.Rename(temp, filepath.Join(s.dir, mapName)); err != nil {
		return err
	}
	return s.disk.SyncDir(s.dir)
}

// writeFile writes a file and makes it durable.
func writeFile(d disk, path string, raw []byte) error {
	f, err := d.OpenFile(path, true)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(raw, 0)
	if err == nil {
		err = f.Truncate(int64(len(raw)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// bytes is how much of the blob is present.
func (s *sparse) bytes() int64 {
	m := mapFile{size: s.size, blockSize: s.blockSize, words: s.present.words()}
	return m.bytes()
}

// durableBytes is how much of it a crash would leave.
func (s *sparse) durableBytes() int64 {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	m := mapFile{size: s.size, blockSize: s.blockSize, words: s.durable}
	return m.bytes()
}

// close makes everything durable. After it nothing is written, by whoever is late.
func (s *sparse) close() error {
	err := s.flush()
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.broken.Store(true)
	return errors.Join(err, s.data.Close())
}

// removeEntry removes the files of a blob, and its directory if whole. The order
// does not matter to a crash: an id is never used again, so a map without its
// data file is about nothing.
func removeEntry(d disk, dir string, whole bool) error {
	names, err := d.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, d.Remove(filepath.Join(dir, name)))
	}
	if whole {
		errs = append(errs, d.Remove(dir))
	}
	return errors.Join(errs...)
}
