package convert

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/referee-cri/referee/internal/layerstream"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/convert/imagetest"
	"github.com/referee-cri/referee/lazyblock/erofs"
)

// nowhere takes writes within a disk's bounds.
type nowhere struct{ t *testing.T }

func (n nowhere) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off%512 != 0 || len(p)%512 != 0 {
		n.t.Errorf("write of %d bytes at %d", len(p), off)
	}
	return len(p), nil
}

// FuzzTar feeds two layers of anything to a small disk. What is refused must be
// refused for what it is, and never by a crash.
func FuzzTar(f *testing.F) {
	rich := imagetest.File("f", "content")
	rich.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "\x00", "mtime": "1.5", "uid": "3000000"}
	f.Add(imagetest.Tar(f, imagetest.Dir("d"), rich, imagetest.Symlink("l", "d"), imagetest.Hardlink("l/h", "f")), imagetest.Tar(f, imagetest.File("d/.wh..wh..opq", ""), imagetest.File(".wh.f", "")))
	f.Add(imagetest.SparseTar(f, 1<<20), []byte{})
	f.Fuzz(func(t *testing.T, bottom, top []byte) {
		d := newDisk(erofs.Limits{Entries: 1000, Bytes: 1 << 20})
		for _, layer := range [][]byte{bottom, top} {
			end := d.end
			err := d.addLayer(t.Context(), bytes.NewReader(layer), trustAll, nowhere{t}, 1<<26, [16]byte{})
			if err != nil && !errors.Is(err, erofs.ErrDiskFull) && reason.Of(err) != reason.ArtifactInvalid {
				t.Errorf("error does not blame the layer: %v", err)
			}
			if err != nil && d.end != end {
				t.Error("a refused layer moved the end of the disk")
			}
		}
	})
}

// FuzzDecompress reads damaged streams in large and in tiny steps: both must
// end, and alike.
func FuzzDecompress(f *testing.F) {
	f.Add(imagetest.Gzip([]byte("content")))
	f.Add(imagetest.Zstd([]byte("content")))
	f.Add([]byte("plain"))
	read := func(b []byte, wrap func(io.Reader) io.Reader) ([]byte, bool) {
		r, err := layerstream.Decompress(bytes.NewReader(b))
		if err != nil {
			return nil, false
		}
		defer r.Close()
		plain, err := io.ReadAll(io.LimitReader(wrap(r), 1<<20))
		return plain, err == nil
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		large, whole := read(b, func(r io.Reader) io.Reader { return r })
		tiny, wholeToo := read(b, iotest.OneByteReader)
		if whole != wholeToo || whole && !bytes.Equal(large, tiny) {
			t.Errorf("%d bytes (%t) in large steps, %d (%t) in tiny ones", len(large), whole, len(tiny), wholeToo)
		}
	})
}
