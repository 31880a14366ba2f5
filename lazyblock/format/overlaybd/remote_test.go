package overlaybd

import (
	"bytes"
	"slices"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// goodTurbo is an LSMT file whose first eight sectors, from sector 16 of the disk,
// are its own, and whose next three are the sectors 1 to 3 of remote data.
func goodTurbo() *forgedLSMT {
	f := goodLSMT()
	remote := newSegment(24, 3, 1)
	remote.hi |= tagRemote << tagShift
	f.segments = []segment{f.segments[0], remote, f.segments[1]}
	return f
}

// remoteData is three and a half sectors.
func remoteData() bytesReader {
	data := make([]byte, 3*sector+sector/2)
	for i := range data {
		data[i] = byte(i*11 + 1)
	}
	return data
}

func TestRemoteSectorsAreReadFromElsewhere(t *testing.T) {
	t.Parallel()
	remote := remoteData()
	own := goodLSMT().data
	lower := layerBlob(t, LayerOptions{VirtualSize: 1 << 20}, write{0, bytes.Repeat([]byte{0xEE}, 64*sector)})
	upper := layerBlob(t, LayerOptions{VirtualSize: 1 << 20}, write{25 * sector, bytes.Repeat([]byte{0xDD}, sector)})
	padded := append(bytes.Clone(remote[sector:]), make([]byte, sector/2)...)
	turbo := Layer{Blob: bytesReader(goodTurbo().file()), Remote: remote}
	for name, tc := range map[string]struct {
		layers []Layer
		want   []byte // sectors 16 to 27
	}{
		"alone":                  {[]Layer{turbo}, slices.Concat(own, padded, make([]byte, sector))},
		"above a native layer":   {[]Layer{{Blob: lower}, turbo}, slices.Concat(own, padded, bytes.Repeat([]byte{0xEE}, sector))},
		"below a native layer":   {[]Layer{turbo, {Blob: upper}}, slices.Concat(own, padded[:sector], bytes.Repeat([]byte{0xDD}, sector), padded[2*sector:], make([]byte, sector))},
		"above one of its kind":  {[]Layer{turbo, turbo}, slices.Concat(own, padded, make([]byte, sector))},
		"and compressed as well": {[]Layer{{Blob: bytesReader(turboZFile(t)), Remote: remote}}, slices.Concat(own, padded, make([]byte, sector))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := OpenStack(t.Context(), tc.layers, "test")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for _, step := range []int{100, sector, len(tc.want)} {
				got := make([]byte, len(tc.want))
				for at := 0; at < len(got); at += step {
					if _, err := d.ReadRange(t.Context(), got[at:min(at+step, len(got))], int64(16*sector+at)); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(got, tc.want) {
					t.Errorf("wrong bytes in steps of %d", step)
				}
			}
		})
	}
}

func turboZFile(t *testing.T) []byte {
	t.Helper()
	z := goodZFile()
	z.content = goodTurbo().file()
	return z.file(t)
}

func TestRemoteSegmentsHaveBounds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(s *segment)
		remote lazyblock.RangeReader
		want   reason.Code
	}{
		"as they are":            {func(*segment) {}, remoteData(), reason.None},
		"into the padding":       {func(*segment) {}, remoteData()[:3*sector+1], reason.None},
		"beyond the data":        {func(*segment) {}, remoteData()[:3*sector], reason.FormatCorrupt},
		"nothing there":          {func(*segment) {}, bytesReader{}, reason.FormatCorrupt},
		"another tag":            {func(s *segment) { s.hi += 1 << tagShift }, remoteData(), reason.FormatCorrupt},
		"an absurd place":        {func(s *segment) { s.hi |= remoteBit }, remoteData(), reason.FormatCorrupt},
		"of a layer without any": {func(s *segment) { s.hi |= 1 << 40 }, nil, reason.FormatCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := goodTurbo()
			tc.change(&f.segments[1])
			d, err := OpenStack(t.Context(), []Layer{{Blob: bytesReader(f.file()), Remote: tc.remote}}, "test")
			if err == nil {
				err = d.Close()
			}
			if reason.Of(err) != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
