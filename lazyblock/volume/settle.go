package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

// A volume is settled once its devices are files of this node, decoded: the kernel
// mounts these for containers to come, with nothing of ours between, and the
// devices of mounts that are older read them too. Its blobs are needed no more.

// Files keeps devices as files, each under the volume's ID with a number behind.
type Files interface {
	// Open opens the file of a device. source is the device itself, nil where the
	// file is expected to be whole.
	Open(device string, size int64, source lazyblock.RangeReader) (File, error)
	// Remove removes what is kept of a volume's devices, none of which is open. To
	// remove what is not there is no error.
	Remove(volume string) error
}

// File is a device that is being copied to, or read from, a file of this node.
type File interface {
	lazyblock.RangeReader
	io.Closer
	// Prefetch copies what is missing of a range. On a full disk it may succeed and
	// keep nothing: ask Missing.
	Prefetch(ctx context.Context, off, n int64) error
	// Missing returns the first run at or behind off that is not in the file; n is 0
	// where there is none.
	Missing(off int64) (at, n int64)
	// SealAsIs makes the file durable: what was not copied is zeros.
	SealAsIs() error
	Sealed() bool
	// Path is where the file is, for as long as it is open.
	Path() string
}

// ErrNoFiles says that this node keeps no devices as files.
var ErrNoFiles = errors.New("devices are not kept as files here")

// settled is the durable record of how to mount a settled volume. It is written
// once all files are.
type settled struct {
	FSType  string          `json:"fs_type"`
	Options []string        `json:"options,omitempty"`
	Devices []settledDevice `json:"devices"` // the primary one first
}

type settledDevice struct {
	Name string `json:"name"` // of its file
	ID   string `json:"id"`
	Size int64  `json:"size"`
}

// SettledSuffix is that of the record beside a volume's own.
const SettledSuffix = ".settled"

func (r records) settledPath(id string) string { return filepath.Join(r.dir, id+SettledSuffix) }

// settled returns the record of a volume, nil where it is not settled.
func (r records) settled(id string) (*settled, error) {
	data, err := os.ReadFile(r.settledPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how volume %s is settled: %w", id, err)
	}
	var s settled
	if err := json.Unmarshal(data, &s); err != nil || len(s.Devices) == 0 {
		return nil, fmt.Errorf("read how volume %s is settled: %w", id, errors.Join(err, errors.New("want at least one device")))
	}
	return &s, nil
}

// Settled reports whether a volume needs its blobs no more.
func (m *Manager) Settled(id string) bool {
	s, err := m.records.settled(id)
	return err == nil && s != nil
}

// Settle copies the devices of a mounted volume to files. The caller, who was told
// of the volume as a Companion, must not be done with it; all its blobs must be
// whole and compared with their digests. pace is called after each n bytes, and
// may wait; spare says why n more bytes should not be kept. Resettle does the rest.
func (m *Manager) Settle(ctx context.Context, id string, spare func(n int64) error, pace func(ctx context.Context, n int64) error) error {
	if m.files == nil {
		return ErrNoFiles
	}
	e := m.pin(id)
	defer m.unpin(e)
	m.mu.Lock()
	o := e.opened
	m.mu.Unlock()
	if o == nil || o.files != nil {
		return nil
	}
	ctx = lazyblock.WithPriority(ctx, lazyblock.Background) // what is decoded for it is kept nowhere else
	record := settled{FSType: o.volume.FSType, Options: o.volume.Options}
	for i, d := range o.devices {
		name := DeviceName(id, i)
		if err := m.copy(ctx, name, d.current(), spare, pace); err != nil {
			return fmt.Errorf("settle volume %s: %w", id, err)
		}
		record.Devices = append(record.Devices, settledDevice{name, d.ID(), d.Size()})
	}
	data, err := json.MarshalIndent(record, "", "  ")
	if err == nil {
		err = atomicfile.Write(m.records.settledPath(id), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("settle volume %s: %w", id, err)
	}
	return nil
}

// DeviceName is what Files knows the ith device of a volume by, 0 the primary one.
func DeviceName(id string, i int) string { return fmt.Sprintf("%s.%d", id, i) }

// copyPiece is how much is copied between two calls of pace.
const copyPiece = 1 << 20

// copy copies what a device holds to its file and seals it. Of what a former process
// has copied already, nothing is copied or spared again.
func (m *Manager) copy(ctx context.Context, name string, d lazyblock.Device, spare func(n int64) error, pace func(ctx context.Context, n int64) error) (err error) {
	file, err := m.files.Open(name, d.Size(), d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if file.Sealed() {
		return nil
	}
	var need int64
	for _, n := range missing(d, file) {
		need += n
	}
	if need > 0 {
		if err := spare(need); err != nil {
			return err
		}
	}
	for off, n := range missing(d, file) {
		if err := spare(n); err != nil {
			return err
		}
		if err := file.Prefetch(ctx, off, n); err != nil {
			return err
		}
		if at, left := file.Missing(off); left > 0 && at < off+n { // sealed, it would be zeros
			return fmt.Errorf("file of device %s does not keep what is copied", name)
		}
		if err := pace(ctx, n); err != nil {
			return err
		}
	}
	return file.SealAsIs()
}

// missing yields the parts of a device's data that its file does not have when it is
// their turn, each at most copyPiece long.
func missing(d lazyblock.Device, file File) iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		for off, n := range dataOf(d) {
			for end := off + n; off < end; {
				at, run := file.Missing(off)
				begin := max(at, off) // the run may begin with its block
				if run == 0 || begin >= end {
					break
				}
				off = min(at+run, end, begin+copyPiece)
				if !yield(begin, off-begin) {
					return
				}
			}
		}
	}
}

// dataOf yields the ranges of a device that are not known to be zeros.
func dataOf(d lazyblock.Device) iter.Seq2[int64, int64] {
	if sparse, ok := d.(interface {
		Data() iter.Seq2[int64, int64]
	}); ok {
		return sparse.Data()
	}
	return func(yield func(off, n int64) bool) { yield(0, d.Size()) }
}

// fileDevice is a device that is a file of this node.
type fileDevice struct {
	File

	id string
}

func (d fileDevice) ID() string { return d.id }

// openSettled returns the volume of a settled one's files, and where they are; nil
// where it is not settled, or not all of its files are here and whole.
func (m *Manager) openSettled(id string) (*lazyblock.Volume, []File, error) {
	record, err := m.records.settled(id)
	if err != nil || record == nil || m.files == nil {
		return nil, nil, err
	}
	v := &lazyblock.Volume{FSType: record.FSType, Options: record.Options}
	var files []File
	for i, d := range record.Devices {
		file, err := m.files.Open(d.Name, d.Size, nil)
		if err == nil {
			files = append(files, file)
			if !file.Sealed() {
				err = fmt.Errorf("file of device %s is not whole", d.Name)
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, closeFiles(files))
		}
		if i == 0 {
			v.Primary = fileDevice{file, d.ID}
		} else {
			v.Extra = append(v.Extra, fileDevice{file, d.ID})
		}
	}
	return v, files, nil
}

func closeFiles(files []File) error {
	var errs []error
	for _, file := range files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

func paths(files []File) []string {
	list := make([]string, len(files))
	for i, file := range files {
		list[i] = file.Path()
	}
	return list
}

// mountSettled opens a settled volume and mounts its files. opened is nil where it
// is not settled after all: then it is to be opened from its blobs.
func (m *Manager) mountSettled(ctx context.Context, id string, spec Spec) (_ *opened, err error) {
	v, files, err := m.openSettled(id)
	if err != nil {
		m.log.Warn("volume is not settled any more", zap.String("volume", id), zap.Error(err))
		return nil, m.unsettle(id)
	}
	if v == nil {
		return nil, nil
	}
	o := &opened{volume: *v, files: files}
	o.devices, _ = serve(&o.volume, m.giveUpAfter, m.observer, m.log.With(zap.String("volume", id), zap.String("ref", spec.Reference)))
	// What was mounted before it settled may have readers still.
	adopted, err := m.driver.Adopt(id, o.volume, m.path(id))
	if err != nil {
		m.log.Debug("no driver for what reads a settled volume's former mount", zap.String("volume", id), zap.Error(err))
	}
	err = m.mountFiles(ctx, id, o, adopted)
	if err == nil {
		return o, nil
	}
	m.log.Warn("settled volume not mounted from its files", zap.String("volume", id), zap.Error(err))
	if adopted { // the former mount is as good, and readers wait for it
		return o, nil
	}
	return nil, errors.Join(o.close(), m.unsettle(id))
}

// mountFiles mounts a settled volume's files unless they are mounted already: on
// top of what is mounted there, with keep, else in its place.
func (m *Manager) mountFiles(ctx context.Context, id string, o *opened, keep bool) error {
	where := paths(o.files)
	mounted, err := attach.MountedFrom(m.path(id), where[0])
	if err != nil || mounted {
		return err
	}
	target := m.path(id)
	if !keep {
		if target, err = m.target(id); err != nil {
			return err
		}
	}
	if err := attach.MountFiles(where, target, o.volume, m.log); err != nil {
		return err
	}
	return attach.Probe(ctx, target)
}

// unsettle forgets that a volume is settled, and its files, also where they are not
// all there yet.
func (m *Manager) unsettle(id string) error {
	if err := os.Remove(m.records.settledPath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget how volume %s is settled: %w", id, err)
	}
	if m.files == nil {
		return nil
	}
	return m.files.Remove(id)
}

// Devices are the names of a settled volume's files, as Files knows them.
func (m *Manager) Devices(id string) []string {
	record, err := m.records.settled(id)
	if err != nil || record == nil {
		return nil
	}
	names := make([]string, len(record.Devices))
	for i, d := range record.Devices {
		names[i] = d.Name
	}
	return names
}

// Resettle has the mounted volumes that have settled read and mounted from their
// files, and lets go of their blobs. Where one fails the others go on, and it
// stays as it was.
func (m *Manager) Resettle(ctx context.Context) error {
	m.mu.Lock()
	var ids []string
	for id, e := range m.volumes {
		if e.opened != nil && e.opened.files == nil {
			ids = append(ids, id)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, id := range ids {
		if m.Settled(id) {
			errs = append(errs, m.resettle(ctx, id))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) resettle(ctx context.Context, id string) error {
	e := m.pin(id)
	defer m.unpin(e)
	if err := e.lock(ctx); err != nil {
		return fmt.Errorf("settle volume %s: %w", id, err)
	}
	defer e.unlock()
	old := e.opened
	if old == nil || old.files != nil {
		return nil
	}
	spec, err := m.records.read(id)
	if err != nil {
		return err
	}
	v, files, err := m.openSettled(id)
	if err != nil || v == nil {
		return errors.Join(err, m.unsettle(id))
	}
	settled := &opened{host: old.host, volume: *v, files: files, devices: old.devices}
	if err := m.mountFiles(ctx, id, settled, true); err != nil {
		return errors.Join(fmt.Errorf("settle volume %s: %w", id, err), closeFiles(files))
	}
	former := lazyblock.Volume{Primary: old.devices[0].swap(v.Primary)}
	for i, extra := range v.Extra {
		former.Extra = append(former.Extra, old.devices[1+i].swap(extra))
	}
	m.set(e, settled)
	old.volume = former
	err = old.close()
	m.free(spec)
	m.log.Info("volume settled: new containers read local files", zap.String("volume", id), zap.String("ref", spec.Reference))
	return err
}
