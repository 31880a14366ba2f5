package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/erofs"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// deviceFiles keeps devices as files of a folder.
type deviceFiles struct {
	dir  string
	full bool // what is copied is not kept, which nobody is told of
}

func (f deviceFiles) Open(device string, size int64, source lazyblock.RangeReader) (volume.File, error) {
	path := filepath.Join(f.dir, device)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &deviceFile{File: file, size: size, source: source, full: f.full}, nil
}

func (f deviceFiles) Remove(id string) error {
	names, err := filepath.Glob(filepath.Join(f.dir, id+".*"))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

type deviceFile struct {
	*os.File

	size   int64
	source lazyblock.RangeReader
	full   bool
}

func (f *deviceFile) Size() int64  { return f.size }
func (f *deviceFile) Path() string { return f.Name() }

func (f *deviceFile) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return f.ReadAt(p, off)
}

func (f *deviceFile) Missing(off int64) (at, n int64) {
	if info, err := f.Stat(); err == nil { // it is written from its beginning on
		off = max(off, info.Size())
	}
	return off, max(f.size-off, 0)
}

func (f *deviceFile) Prefetch(ctx context.Context, off, n int64) error {
	if f.full {
		return nil
	}
	if lazyblock.PriorityOf(ctx) != lazyblock.Background {
		return errors.New("copied as if somebody waited for it")
	}
	p := make([]byte, n)
	if _, err := f.source.ReadRange(ctx, p, off); err != nil {
		return err
	}
	_, err := f.WriteAt(p, off)
	return err
}

func (f *deviceFile) SealAsIs() error {
	return errors.Join(f.Truncate(f.size), os.WriteFile(f.Name()+".sealed", nil, 0o600))
}

func (f *deviceFile) Sealed() bool {
	_, err := os.Stat(f.Name() + ".sealed")
	return err == nil
}

// image is a device that the kernel can mount.
type image struct{ content []byte }

func (i *image) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(i.content)) {
		i.content = append(i.content, make([]byte, end-int64(len(i.content)))...)
	}
	return copy(i.content[off:], p), nil
}

func (i *image) Size() int64  { return int64(len(i.content)) }
func (i *image) ID() string   { return "image" }
func (i *image) Close() error { return nil }

func (i *image) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	return copy(p, i.content[off:]), nil
}

// newImage is an EROFS of one directory that has the name as an entry.
func newImage(t *testing.T, name string) *image {
	t.Helper()
	tree := erofs.NewTree(erofs.Limits{})
	layer := tree.NewLayer()
	if err := layer.Add(name, erofs.Inode{Mode: erofs.TypeDir | 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Apply(layer); err != nil {
		t.Fatal(err)
	}
	layout, err := tree.Layout(erofs.LayoutOptions{Start: erofs.HeadBlocks(12, 0)})
	if err != nil {
		t.Fatal(err)
	}
	var i image
	if err := layout.Write(t.Context(), &i); err != nil {
		t.Fatal(err)
	}
	return &i
}

// settling is a world whose one volume can settle.
type settling struct {
	*world

	image *image
	files deviceFiles
	spec  volume.Spec
}

func newSettling(t *testing.T) *settling {
	t.Helper()
	s := &settling{world: newWorld(t), image: newImage(t, "etc"), files: deviceFiles{dir: t.TempDir()}, spec: specOf("a")}
	t.Cleanup(func() {
		if err := attach.Unmount(s.target(s.spec)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *settling) manager(t *testing.T) *volume.Manager {
	t.Helper()
	m, err := volume.NewManager(volume.Options{
		Root: s.root, State: s.state, Driver: s.driver, Blobs: s.blobs, GiveUpAfter: time.Minute, Files: s.files,
		Formats: map[string]volume.Opener{"plain": func(context.Context, lazyblock.Form) (lazyblock.Volume, error) {
			return lazyblock.Volume{FSType: "erofs", Primary: s.image}, nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func free(int64) error                        { return nil }
func soon(ctx context.Context, _ int64) error { return ctx.Err() }

// expectMounted looks whether the kernel shows the image, and not what a driver put there.
func (s *settling) expectMounted(t *testing.T, want bool) {
	t.Helper()
	if got := exists(t, filepath.Join(s.target(s.spec), "etc")); got != want {
		t.Errorf("the files are mounted: %t, want %t", got, want)
	}
}

func (s *settling) expectCached(t *testing.T, want bool) {
	t.Helper()
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	if got := s.blobs.cached[s.spec.Layers[0].Digest]; got != want {
		t.Errorf("its blob is cached: %t, want %t", got, want)
	}
}

func TestSettledVolumeNeedsNoBlobs(t *testing.T) {
	t.Parallel()
	s := newSettling(t)
	m := s.manager(t)
	mount(t, m, s.spec)()
	if err := m.Resettle(t.Context()); err != nil { // not yet
		t.Fatal(err)
	}
	s.expectMounted(t, false)
	if err := m.Settle(t.Context(), s.spec.ID(), free, soon); err != nil {
		t.Fatal(err)
	}
	if err := m.Resettle(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expectMounted(t, true)
	s.expectCached(t, false)

	for _, kept := range []bool{true, false} { // with and without the former connection
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		s.restart(kept)
		s.blobs.broken[s.spec.Layers[0].Digest] = errBroken // they are not even asked for
		m = s.manager(t)
		if err := m.Restore(t.Context(), []string{s.spec.ID()}); err != nil {
			t.Fatal(err)
		}
		s.expectMounted(t, true)
	}
	sweep(t, m)
	s.expectMounted(t, false)
	if names, err := os.ReadDir(s.files.dir); err != nil || len(names) > 0 {
		t.Errorf("files are left: %v, %v", names, err)
	}
}

func TestSettlingThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		full  bool
		spare func(int64) error
		pace  func(context.Context, int64) error
		spoil func(*testing.T, *settling)
	}{
		"a full disk that nobody is told of": {full: true},
		"no room":                            {spare: func(int64) error { return errors.New("full") }},
		"no time":                            {pace: func(context.Context, int64) error { return context.DeadlineExceeded }},
		"lost files":                         {spoil: func(t *testing.T, s *settling) { t.Helper(); s.lose(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSettling(t)
			if tc.spare == nil {
				tc.spare = free
			}
			if tc.pace == nil {
				tc.pace = soon
			}
			s.files.full = tc.full
			m := s.manager(t)
			mount(t, m, s.spec)()
			err := m.Settle(t.Context(), s.spec.ID(), tc.spare, tc.pace)
			if (err == nil) != (tc.spoil != nil) {
				t.Fatalf("settled: %v", err)
			}
			if tc.spoil != nil {
				tc.spoil(t, s)
			}
			if err := m.Resettle(t.Context()); (err == nil) != (tc.spoil == nil) {
				t.Errorf("resettled: %v", err)
			}
			s.expectMounted(t, false)
			s.expectCached(t, true)
			if m.Settled(s.spec.ID()) {
				t.Error("it is settled")
			}
			sweep(t, m)
			if names, err := os.ReadDir(s.files.dir); err != nil || len(names) > 0 {
				t.Errorf("files are left: %v, %v", names, err)
			}
		})
	}
}

// TestSettlingGoesOn finds what was copied before the process ended, and room for
// nothing else.
func TestSettlingGoesOn(t *testing.T) {
	t.Parallel()
	s := newSettling(t)
	m := s.manager(t)
	mount(t, m, s.spec)()
	var asked int64
	room := func(n int64) error { asked = max(asked, n); return nil }
	ends := func(context.Context, int64) error { return context.Canceled }
	if err := m.Settle(t.Context(), s.spec.ID(), room, ends); !errors.Is(err, context.Canceled) || asked != s.image.Size() {
		t.Fatalf("it ends with %v, and asked for %d bytes of room for %d", err, asked, s.image.Size())
	}
	none := func(n int64) error { return fmt.Errorf("no room for %d bytes", n) }
	if err := errors.Join(m.Settle(t.Context(), s.spec.ID(), none, ends), m.Resettle(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.expectMounted(t, true)
	sweep(t, m)
}

// TestSettledVolumeWhoseFilesAreLost is opened from its blobs after a restart.
func TestSettledVolumeWhoseFilesAreLost(t *testing.T) {
	t.Parallel()
	s := newSettling(t)
	m := s.manager(t)
	mount(t, m, s.spec)()
	err := errors.Join(m.Settle(t.Context(), s.spec.ID(), free, soon), m.Resettle(t.Context()), m.Close())
	if err != nil {
		t.Fatal(err)
	}
	s.lose(t)
	s.restart(false)
	m = s.manager(t)
	if _, _, err := m.Mount(t.Context(), s.spec, registry.Credentials{}); err != nil {
		t.Fatal(err)
	}
	s.expectMounted(t, false)
	s.expectCached(t, true)
	if n := s.driver.attached(); n != 1 {
		t.Errorf("attached %d times", n)
	}
}

// lose has the files of devices count as not whole.
func (s *settling) lose(t *testing.T) {
	t.Helper()
	names, err := os.ReadDir(s.files.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name.Name(), ".sealed") {
			if err := os.Remove(filepath.Join(s.files.dir, name.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSettledByARestart finds the files of a volume that were not mounted yet when
// its process ended, and a mount of before that readers may have.
func TestSettledByARestart(t *testing.T) {
	t.Parallel()
	s := newSettling(t)
	m := s.manager(t)
	mount(t, m, s.spec)()
	if err := errors.Join(m.Settle(t.Context(), s.spec.ID(), free, soon), m.Close()); err != nil {
		t.Fatal(err)
	}
	s.restart(true)
	m = s.manager(t)
	if err := m.Restore(t.Context(), []string{s.spec.ID()}); err != nil {
		t.Fatal(err)
	}
	s.expectMounted(t, true)
	if s.driver.served[s.spec.ID()] == "" {
		t.Error("what reads the former mount is not served")
	}
	mounted, err := attach.MountedFrom(s.target(s.spec), filepath.Join(s.files.dir, volume.DeviceName(s.spec.ID(), 0)))
	if err != nil || !mounted {
		t.Errorf("mounted from the file: %t, %v", mounted, err)
	}
}
