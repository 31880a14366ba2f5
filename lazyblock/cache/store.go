package cache

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

var (
	// ErrLocked says that another process uses the directory.
	ErrLocked = errors.New("in use by another process")
	// ErrInUse says that a blob is open.
	ErrInUse = errors.New("blob is in use")
)

// What a descriptor can make a map take of memory is bounded: maxBlocks bits, half
// a MiB. A blob has larger blocks where it would have more of them, up to
// maxBlobSize; the largest layers in the wild are some 100 GB.
const (
	maxBlocks   = 1 << 22
	maxBlobSize = 1 << 40
)

// Store is a directory of cached blobs. It is safe for concurrent use.
type Store struct {
	dir     string // with the layout's version
	opts    Options
	disk    disk
	lock    io.Closer
	buffers *buffers
	budget  *budget
	waits   waits // of all readers for their origins
	counts  counts

	stop    chan struct{}
	flusher sync.WaitGroup

	mu        sync.Mutex
	entries   map[string]*entry // by directory name
	scratches map[*Scratch]struct{}
	bytes     int64 // of all of them
	writing   int64 // bytes counted there that are not yet in their files
	refused   int64 // bytes of the shortest piece that could not be kept lately; 0: all are kept
	closed    bool
}

// entry is a blob that has a directory, open or not.
type entry struct {
	name   string
	digest digest.Digest
	size   int64

	bytes int64     // kept of it
	used  time.Time // when it was last opened or closed
	refs  int       // open handles

	file    *file         // while refs > 0
	closing chan struct{} // not nil while the last handle's file is being closed
}

// Open takes dir, made if need be, for this process. What an earlier one left in
// it is there again, as far as it was made durable.
func Open(dir string, opts Options) (*Store, error) { return openOn(osDisk{}, dir, opts) }

func openOn(d disk, dir string, opts Options) (*Store, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	s := &Store{
		dir: filepath.Join(dir, "v1"), opts: opts, disk: d,
		buffers: newBuffers(opts.MaxRequest),
		budget:  newBudget(opts),
		stop:    make(chan struct{}),
		entries: make(map[string]*entry), scratches: make(map[*Scratch]struct{}),
	}
	if err := d.MkdirAll(s.dir); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	lock, err := d.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open cache %s: %w", dir, err)
	}
	s.lock = lock
	if err := s.scan(); err != nil {
		return nil, errors.Join(fmt.Errorf("open cache %s: %w", dir, err), lock.Close())
	}
	s.mu.Lock()
	s.makeRoom(0)
	s.mu.Unlock()
	s.flusher.Go(s.flushRegularly) // Close waits for it
	return s, nil
}

// scan learns what is there, and removes what cannot be believed.
func (s *Store) scan() error {
	names, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if isScratch(name) {
			if err := s.disk.Remove(filepath.Join(s.dir, name)); err != nil {
				s.opts.Log.Warn("removing a scratch file", zap.String("name", name), zap.Error(err))
			}
			continue
		}
		e, ok := parseEntryName(name)
		if !ok {
			continue // not ours
		}
		dir := filepath.Join(s.dir, name)
		m, err := readMap(s.disk, dir, e.size, s.opts.blockSize(e.size))
		if err != nil {
			s.opts.Log.Info("removing a cached blob without a valid map", zap.String("dir", dir), zap.Error(err))
			if err := removeEntry(s.disk, dir, true); err != nil {
				s.opts.Log.Warn("removing a cached blob", zap.String("dir", dir), zap.Error(err))
			}
			continue
		}
		e.bytes = m.bytes()
		if e.used, err = s.disk.ModTime(dir); err != nil {
			return err
		}
		s.entries[name] = e
		s.bytes += e.bytes
	}
	return nil
}

// entryName is the name of a blob's directory. The size is part of it, so that a
// wrong descriptor cannot spoil a right one's.
func entryName(d digest.Digest, size int64) string {
	return fmt.Sprintf("%s-%s-%d", d.Algorithm(), d.Encoded(), size)
}

func parseEntryName(name string) (*entry, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return nil, false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[0]), parts[1])
	size, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || d.Validate() != nil || size < 0 || size > maxBlobSize || entryName(d, size) != name {
		return nil, false
	}
	return &entry{name: name, digest: d, size: size}, true
}

// Blob opens the blob that desc names. What is missing of it is read from
// origin, which may be nil: then only other handles' origins are asked, the
// newest first. The handle must be closed; origin is used until then.
func (s *Store) Blob(desc ocispec.Descriptor, origin lazyblock.RangeReader) (*Blob, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, reason.Errorf(reason.ArtifactInvalid, "open cached blob %q: %w", desc.Digest, err)
	}
	if desc.Size < 0 || desc.Size > maxBlobSize {
		return nil, reason.Errorf(reason.ArtifactInvalid, "open cached blob %s: %d bytes long", desc.Digest, desc.Size)
	}
	if origin != nil && origin.Size() != desc.Size {
		return nil, reason.Errorf(reason.SizeMismatch, "open cached blob %s: origin has %d bytes, descriptor says %d",
			desc.Digest, origin.Size(), desc.Size)
	}
	name := entryName(desc.Digest, desc.Size)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.closed {
			return nil, fmt.Errorf("open cached blob %s: cache is closed", desc.Digest)
		}
		e, ok := s.entries[name]
		if !ok {
			e = &entry{name: name, digest: desc.Digest, size: desc.Size}
			s.entries[name] = e
		}
		if e.closing == nil {
			return s.openEntry(e, origin)
		}
		s.awaitClosing(e)
	}
}

// awaitClosing lets go of s.mu until e's file is closed.
func (s *Store) awaitClosing(e *entry) {
	closing := e.closing
	s.mu.Unlock()
	<-closing
	s.mu.Lock()
}

func (s *Store) openEntry(e *entry, origin lazyblock.RangeReader) (*Blob, error) {
	if e.file == nil {
		sp, err := openSparse(s.disk, filepath.Join(s.dir, e.name), e.size, s.opts.blockSize(e.size))
		if err != nil {
			return nil, fmt.Errorf("open cached blob %s: %w", e.digest, err)
		}
		kept := sp.bytes()
		s.bytes += kept - e.bytes // the map may have been lost meanwhile
		e.bytes = kept
		e.file = newFile(s, e, sp)
	}
	e.refs++
	e.used = time.Now()
	b := &Blob{file: e.file, origin: origin}
	e.file.addOrigin(b)
	return b, nil
}

// release gives back one handle; the last one closes the file.
func (s *Store) release(e *entry) error {
	s.mu.Lock()
	e.used = time.Now()
	if e.refs--; e.refs > 0 {
		s.mu.Unlock()
		return nil
	}
	f := e.file
	closing := make(chan struct{})
	e.file, e.closing = nil, closing
	s.mu.Unlock()

	err := f.shutdown()
	_ = s.disk.SetModTime(filepath.Join(s.dir, e.name), e.used) // only the order of eviction after a restart

	s.mu.Lock()
	defer s.mu.Unlock()
	e.closing = nil
	close(closing)
	kept := f.sparse.durableBytes() // less than was counted if the disk failed
	s.bytes += kept - e.bytes
	e.bytes = kept
	if !s.closed {
		s.makeRoom(0)
	}
	return err
}

// Remove removes a blob, or returns ErrInUse while somebody has it open. To
// remove what is not there is no error.
func (s *Store) Remove(d digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.digest == d && (e.refs > 0 || e.closing != nil) {
			return fmt.Errorf("remove cached blob %s: %w", d, ErrInUse)
		}
	}
	var errs []error
	for _, e := range s.entries {
		if e.digest == d {
			errs = append(errs, s.remove(e))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) remove(e *entry) error {
	delete(s.entries, e.name)
	s.bytes -= e.bytes
	if err := removeEntry(s.disk, filepath.Join(s.dir, e.name), true); err != nil {
		return fmt.Errorf("remove cached blob %s: %w", e.digest, err)
	}
	return nil
}

// Usage is what a Store keeps of one blob.
type Usage struct {
	Digest   digest.Digest
	Size     int64 // of the whole blob
	Cached   int64 // bytes of it on disk
	InUse    bool
	LastUsed time.Time
}

// Usage lists all blobs, in no order.
func (s *Store) Usage() []Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Usage, 0, len(s.entries))
	for _, e := range s.entries {
		list = append(list, Usage{e.digest, e.size, e.bytes, e.refs > 0 || e.closing != nil, e.used})
	}
	return list
}

// Close makes everything durable and gives the directory free. Blobs and scratch
// files still open fail from then on.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var open []*entry
	for _, e := range s.entries {
		for e.closing != nil {
			s.awaitClosing(e)
		}
		if e.file != nil {
			open = append(open, e)
		}
	}
	var errs []error
	for c := range s.scratches {
		errs = append(errs, s.drop(c))
	}
	s.mu.Unlock()
	close(s.stop)
	s.flusher.Wait()
	for _, e := range open {
		errs = append(errs, e.file.shutdown())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}
