package e2e_test

import (
	"bytes"
	"os"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/forge"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// layer reads a layer of the stock form.
func (g *ground) layer(t *testing.T, i int) []byte {
	t.Helper()
	blob, err := os.ReadFile(testdata.Blob(g.layout, g.form.Layers[i].Digest))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// forged attaches the stock form with another layer 2, whose digest and size the
// manifest gives rightly.
func forged(build func(t *testing.T, blob []byte) []byte) func(*testing.T, *trial) {
	return forgedAt(2, build)
}

func forgedAt(i int, build func(t *testing.T, blob []byte) []byte) func(*testing.T, *trial) {
	return manifest(func(t *testing.T, c *trial, m *ocispec.Manifest) {
		t.Helper()
		m.Layers[i] = c.put(t, build(t, c.layer(t, i)))
	})
}

// bent forges a layer whose ZFile is changed; seal comes before what must not be
// covered by it.
func bent(change func(l *forge.Layer)) func(*testing.T, *trial) {
	return forged(func(t *testing.T, blob []byte) []byte {
		t.Helper()
		l := split(t, blob)
		change(l)
		return l.Bytes()
	})
}

// bentLSMT forges a layer whose LSMT file is changed. It is not compressed, so
// that nothing but its own rules can tell.
func bentLSMT(i int, change func(t *testing.T, f *forge.LSMT)) func(*testing.T, *trial) {
	return forgedAt(i, func(t *testing.T, blob []byte) []byte {
		t.Helper()
		f := content(t, split(t, blob))
		change(t, f)
		return forge.Tar(f.Bytes())
	})
}

func content(t *testing.T, l *forge.Layer) *forge.LSMT {
	t.Helper()
	raw, err := l.Content()
	if err != nil {
		t.Fatal(err)
	}
	f, err := forge.SplitLSMT(raw)
	if err != nil {
		t.Fatal(err)
	}
	f.Seal()
	return f
}

func split(t *testing.T, blob []byte) *forge.Layer {
	t.Helper()
	l, err := forge.Split(blob)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestCorruptLayers pulls images with a form attached of which one layer is
// broken. Nothing of it is ever mounted for a container.
func TestCorruptLayers(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{}, "")
	corrupt := func(says string) outcome { return outcome{reason: reason.FormatCorrupt, says: says} }
	lsmt := func(change func(f *forge.LSMT)) func(*testing.T, *trial) {
		return bentLSMT(2, func(_ *testing.T, f *forge.LSMT) {
			f.Data = f.Data[:64<<10]
			f.Segments = []forge.Segment{{Start: 0, Sectors: 8, At: 8}, {Start: 16, Sectors: 16, At: 16}, {Start: 48, Sectors: 8, At: 32, Zeroed: true}}
			f.Seal()
			change(f)
		})
	}
	cut := func(n func(l *forge.Layer, size int) int) func(*testing.T, *trial) {
		return forged(func(t *testing.T, blob []byte) []byte { t.Helper(); return blob[:n(split(t, blob), len(blob))] })
	}
	g.try(t, []fault{
		{"tar: header truncated", cut(func(*forge.Layer, int) int { return 300 }), outcome{reason: reason.FormatCorrupt, says: "before a header", whole: true}},
		{"tar: payload truncated", cut(func(_ *forge.Layer, size int) int { return size / 2 }), corrupt("does not fit")},
		{"tar: trailer truncated with the payload's end", cut(func(_ *forge.Layer, size int) int { return size - 1024 - 512 }), corrupt("does not fit")},
		{"tar: header flipped", forged(func(_ *testing.T, b []byte) []byte { b[100] ^= 1; return b }), corrupt("neither ZFile nor LSMT")},
		{"tar: second header flipped", forged(func(_ *testing.T, b []byte) []byte { b[1024+100] ^= 1; return b }), corrupt("bad magic or checksum")},
		{"tar: size is no number", forged(func(_ *testing.T, b []byte) []byte { copy(b[512:], "17 size=abc"); return b }), corrupt("PAX")},
		{"nothing but zeros", forged(func(_ *testing.T, b []byte) []byte { clear(b); return b }), corrupt("neither ZFile nor LSMT")},

		{"ZFile: header flipped", bent(func(l *forge.Layer) { l.Header[200] ^= 1 }), corrupt("digest")},
		{"ZFile: trailer flipped", bent(func(l *forge.Layer) {
			l.Header.Set64(forge.ZFlags, l.Header.Get64(forge.ZFlags)&^forge.ZIndexed)
			l.Seal()
			l.Trailer[200] ^= 1
		}), corrupt("digest")},
		{"ZFile: no trailer", bent(func(l *forge.Layer) {
			l.Header.Set64(forge.ZFlags, l.Header.Get64(forge.ZFlags)&^forge.ZIndexed)
			l.Seal()
			clear(l.Trailer)
		}), corrupt("magic")},
		{"ZFile: index flipped", bent(func(l *forge.Layer) { l.Index[1]++; l.Index[2]-- }), corrupt("CRC")},
		{"ZFile: index shifted, checksums right", bent(func(l *forge.Layer) { l.Index[0]++; l.Index[1]--; l.Seal() }), corrupt("expand ZFile block")},
		{"ZFile: index overlaps", bent(func(l *forge.Layer) { l.Index[1]--; l.Seal() }), corrupt("blocks end at")},
		{"ZFile: a block of absurd length", bent(func(l *forge.Layer) { l.Index[1] = 1 << 31; l.Seal() }), corrupt("stored in 2147483648 bytes")},
		{"ZFile: index outside", bent(func(l *forge.Layer) { l.Header.Set64(forge.ZIndexOffset, 1<<40); l.Seal() }), corrupt("index of")},
		{"ZFile: absurd number of blocks", bent(func(l *forge.Layer) {
			l.Header.Set64(forge.ZIndexEntries, 1<<60)
			l.Header.Set64(forge.ZOriginalSize, 1<<62)
			l.Seal()
		}), corrupt("blocks")},
		{"ZFile: blocks of absurd size", bent(func(l *forge.Layer) { l.Header.Set32(forge.ZBlockSize, 1<<31); l.Seal() }), corrupt("block size")},
		{"ZFile: a block of the LSMT header flipped", bent(func(l *forge.Layer) { l.Blocks[10] ^= 1 }), corrupt("expand ZFile block 0: CRC")},
		{"ZFile: the same with its CRC right", bent(func(l *forge.Layer) {
			l.Blocks[0] ^= 0xff
			l.SealBlock(0)
		}), corrupt("")},

		{"LSMT: header flipped", lsmt(func(f *forge.LSMT) { f.Header[0] ^= 1 }), corrupt("neither ZFile nor LSMT")},
		{"LSMT: header of another kind", lsmt(func(f *forge.LSMT) { f.Header.Set32(forge.LSMTFlags, 5) }), corrupt("flags")},
		{"LSMT: trailer flipped", lsmt(func(f *forge.LSMT) { f.Trailer[8] ^= 1 }), corrupt("no LSMT magic")},
		{"LSMT: trailer not sealed", lsmt(func(f *forge.LSMT) { f.Trailer.Set32(forge.LSMTFlags, 2) }), corrupt("not a sealed data file")},
		{"LSMT: truncated", forged(func(t *testing.T, blob []byte) []byte {
			t.Helper()
			file := content(t, split(t, blob)).Bytes()
			return forge.Tar(file[:len(file)-512])
		}), corrupt("LSMT")},
		{"LSMT: segments overlap", lsmt(func(f *forge.LSMT) { f.Segments[1].Start = f.Segments[0].Start }), corrupt("before the one ahead of it ends")},
		{"LSMT: segments out of order", lsmt(func(f *forge.LSMT) { slices.Reverse(f.Segments) }), corrupt("before the one ahead of it ends")},
		{"LSMT: a segment points outside", lsmt(func(f *forge.LSMT) { f.Segments[0].At = 1 << 40 }), corrupt("outside the data")},
		{"LSMT: a segment points into the header", lsmt(func(f *forge.LSMT) { f.Segments[0].At = 0 }), corrupt("outside the data")},
		{"LSMT: a segment beyond any disk", lsmt(func(f *forge.LSMT) { f.Segments[len(f.Segments)-1].Start = 1<<50 - 2 }), corrupt("beyond any disk")},
		{"LSMT: absurd number of segments", lsmt(func(f *forge.LSMT) { f.Trailer.Set64(forge.LSMTIndexEntries, 1<<59) }), corrupt("segments")},
		{"LSMT: absurd disk", lsmt(func(f *forge.LSMT) { f.Trailer.Set64(forge.LSMTVirtualSize, 1<<62) }), corrupt("virtual size")},

		// The topmost layer that has the superblock decides.
		{"file system: none", bentLSMT(3, func(t *testing.T, f *forge.LSMT) {
			t.Helper()
			overwrite(t, f, superblock, make([]byte, 1024))
		}), corrupt("no known file system")},
		{"file system: one the kernel refuses", bentLSMT(3, func(t *testing.T, f *forge.LSMT) {
			t.Helper()
			overwrite(t, f, superblock+96, bytes.Repeat([]byte{0xff}, 4)) // incompatible features
		}), outcome{reason: reason.AttachFailed, says: "mount"}},
		{"file system: blocks flipped that the kernel reads", forgedAt(3, func(t *testing.T, blob []byte) []byte {
			t.Helper()
			l := split(t, blob)
			f := content(t, l)
			at, found := f.Find(superblock / forge.Sector)
			if !found {
				t.Fatal("the top layer has no superblock")
			}
			const block = 4096
			first, end := 1, int(f.Trailer.Get64(forge.LSMTIndexOffset)/block)
			for i := first; i < end; i++ {
				if i != int(at*forge.Sector/block) {
					l.Blocks[l.BlockAt(i)-l.BlockAt(0)] ^= 1
				}
			}
			return l.Bytes()
		}), corrupt("CRC")},
	})
	g.expectModest(t, 128<<20) // whatever sizes were claimed
}

// superblock is where ext4's begins.
const superblock = 1024

func overwrite(t *testing.T, f *forge.LSMT, off int64, p []byte) {
	t.Helper()
	if err := f.Overwrite(off, p); err != nil {
		t.Fatal(err)
	}
}

// TestFailingBlobs pulls images whose form is sound, from registries that cannot
// or will not serve its layers.
func TestFailingBlobs(t *testing.T) {
	t.Parallel()
	g := newGround(t, node.Options{}, "[pull]\nattach_timeout = \"2s\"\n")
	layer := regtest.Path(layerPath(g.form.Layers[1].Digest)) // of 3.6 MB
	g.try(t, []fault{
		{"500", sound(regtest.Fault{Match: layer, Status: 500}), outcome{reason: reason.RegistryError, says: "500"}},
		{"503 with a long Retry-After", sound(regtest.Fault{Match: layer, Status: 503, Header: map[string][]string{"Retry-After": {"600"}}}), outcome{reason: reason.RegistryError, says: "503"}},
		{"404", sound(regtest.Fault{Match: layer, Status: 404}), outcome{reason: reason.NotFound, says: "404"}},
		{"403", sound(regtest.Fault{Match: layer, Status: 403}), outcome{reason: reason.Unauthorized, says: "403"}},
		{"Range ignored", sound(regtest.Fault{Match: layer, IgnoreRange: true}), outcome{reason: reason.NoRange, says: "ignores Range"}},
		{"closed at once", sound(regtest.Fault{Match: layer, Drop: true}), outcome{reason: reason.RegistryUnreachable, says: "closed without an answer"}},
		{"closed mid-body", sound(regtest.Fault{Match: layer, CutAt: at(1000)}), outcome{reason: reason.RegistryUnreachable, says: "EOF"}},
		{"hangs", sound(regtest.Fault{Match: layer, Hang: true}), outcome{reason: reason.BudgetExceeded}},
		{"trickles", sound(regtest.Fault{Match: layer, BytesPerSecond: 2000}), outcome{reason: reason.BudgetExceeded}},
		{"wrong bytes", sound(regtest.Fault{Match: layer, FlipAt: at(forge.TarHead + 200)}), outcome{reason: reason.FormatCorrupt, says: "digest"}},
		{"other range than asked for", sound(regtest.Fault{
			Match: layer, Header: map[string][]string{"Content-Range": {"bytes 7-262150/3604480"}},
		}), outcome{reason: reason.RegistryError, says: "asked for"}},
		{"compressed on the way", sound(regtest.Fault{
			Match: layer, Header: map[string][]string{"Content-Encoding": {"gzip"}},
		}), outcome{reason: reason.RegistryError, says: "content encoding"}},
		{"longer than it says", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) { resize(m, -512) }), outcome{reason: reason.SizeMismatch}},
		{"shorter than it says", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) { resize(m, 512) }), outcome{reason: reason.SizeMismatch}},
		{"of absurd size", manifest(func(_ *testing.T, _ *trial, m *ocispec.Manifest) { resize(m, 1<<60) }), outcome{reason: reason.ArtifactInvalid, says: "bytes long"}},
		{"another blob under its digest", func(t *testing.T, c *trial) {
			t.Helper()
			c.attach(t, c.stock(t))
			other := c.layer(t, 0)
			c.registry.Inject(regtest.Fault{Match: layer, IgnoreRange: true, Rewrite: func([]byte) []byte { return other }})
		}, outcome{reason: reason.SizeMismatch}},
	})
}

func resize(m *ocispec.Manifest, by int64) {
	d := m.Layers[1]
	d.Size += by
	m.Layers[1] = describe(d)
}
