package materialise

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
)

// noise is content that does not compress.
func noise(n int) string {
	content := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	return string(content)
}

// sampleTars are three layers of which the middle one is long.
func sampleTars(t *testing.T) [][]byte {
	t.Helper()
	return [][]byte{makeTar(t, file("a", "a")), makeTar(t, file("b", noise(1<<20))), makeTar(t, file("c", "c"))}
}

func (b *bed) expectSample(t *testing.T) {
	t.Helper()
	for name, want := range map[string]string{"a": "a", "b": noise(1 << 20), "c": "c"} {
		got, err := os.ReadFile(filepath.Join(b.tree(), name))
		if err != nil || string(got) != want {
			t.Errorf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	}
}

func TestMediaTypesAndCompressions(t *testing.T) {
	t.Parallel()
	for mediaType, pack := range map[string]func(*testing.T, []byte) []byte{
		ocispec.MediaTypeImageLayer:                                    packNot,
		ocispec.MediaTypeImageLayerGzip:                                packGzip,
		ocispec.MediaTypeImageLayerZstd:                                packZstd,
		"application/vnd.docker.image.rootfs.diff.tar":                 packNot,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            packGzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    packGzip,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": packZstd,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            packGzip, // the blob's own bytes decide
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      packNot,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": packGzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar":         packNot,
	} {
		t.Run(mediaType, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			if err := b.make(t, b.push(t, mediaType, pack, sampleTars(t)...)); err != nil {
				t.Fatal(err)
			}
			b.expectSample(t)
		})
	}
}

func TestBrokenTransfersGoOn(t *testing.T) {
	t.Parallel()
	at := int64(700_000)
	for name, tc := range map[string]struct {
		fault   regtest.Fault
		resumes bool // the rest is asked for, not the whole
	}{
		"a connection that breaks":    {regtest.Fault{Times: 1, CutAt: &at}, true},
		"and breaks again":            {regtest.Fault{Times: 3, CutAt: ptr(int64(200_000))}, true},
		"no answer at first":          {regtest.Fault{Times: 2, Drop: true}, false},
		"a server that is overloaded": {regtest.Fault{Times: 3, Status: http.StatusServiceUnavailable}, false},
		"too many requests":           {regtest.Fault{Times: 1, Status: http.StatusTooManyRequests}, false},
		"a stalled answer":            {regtest.Fault{Times: 1, Hang: true}, false},
		"a wrong byte, once":          {regtest.Fault{Times: 1, FlipAt: &at}, false},
		"a trickle":                   {regtest.Fault{Times: 1, BytesPerSecond: 1000}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			layers := b.pushGzip(t, sampleTars(t)...)
			path := regtest.Path(layers[1].Digest.String(), http.MethodGet)
			tc.fault.Match = path
			b.Inject(tc.fault)
			var ranges atomic.Int32
			b.Inject(regtest.Fault{Match: func(r *http.Request) bool {
				if path(r) && r.Header.Get("Range") != "" {
					ranges.Add(1)
				}
				return false
			}})
			if err := b.make(t, layers); err != nil {
				t.Fatal(err)
			}
			b.expectSample(t)
			if resumed := ranges.Load() > 0; resumed != tc.resumes {
				t.Errorf("resumed %t, want %t", resumed, tc.resumes)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestServerWithoutRangesIsAskedForTheWhole(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	layers := b.pushGzip(t, sampleTars(t)...)
	path := regtest.Path(layers[1].Digest.String(), http.MethodGet)
	b.Inject(regtest.Fault{Match: path, IgnoreRange: true})
	b.Inject(regtest.Fault{Match: path, Times: 1, CutAt: ptr(int64(500_000))})
	var last Progress
	opts := b.options()
	opts.Progress = func(p Progress) { last = p }
	if err := Layers(t.Context(), b.tree(), layers, b.repo, opts); err != nil {
		t.Fatal(err)
	}
	b.expectSample(t)
	var total int64
	for _, layer := range layers {
		total += layer.Size
	}
	if want := (Progress{Fetched: total, Total: total, Unpacked: 3, Layers: 3}); last != want {
		t.Errorf("progress ends at %+v, want %+v", last, want)
	}
}

// TestWhatIsWrongLeavesNothing has one layer of several that is not what it
// should be.
func TestWhatIsWrongLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault  regtest.Fault // of the middle layer's blob
		change func(*Layer)  // of the middle layer
		want   reason.Code
	}{
		"bytes of another digest":        {fault: regtest.Fault{FlipAt: ptr(int64(1000))}, want: reason.DigestMismatch},
		"a diff ID that is another's":    {change: func(l *Layer) { l.DiffID = digest.FromString("other") }, want: reason.DigestMismatch},
		"a size that is too small":       {change: func(l *Layer) { l.Size-- }, want: reason.SizeMismatch},
		"a size that is too large":       {change: func(l *Layer) { l.Size++ }, want: reason.SizeMismatch},
		"a size that is no size":         {change: func(l *Layer) { l.Size = -1 }, want: reason.ArtifactInvalid},
		"sizes that overflow":            {change: func(l *Layer) { l.Size = 1<<63 - 1 }, want: reason.ArtifactInvalid},
		"a digest that is none":          {change: func(l *Layer) { l.Digest = "sha256:../../../etc" }, want: reason.ArtifactInvalid},
		"a media type nobody knows":      {change: func(l *Layer) { l.MediaType += "+encrypted" }, want: reason.ArtifactInvalid},
		"a blob that is not there":       {change: func(l *Layer) { l.Digest = digest.FromString("?") }, want: reason.NotFound},
		"a blob that nobody may read":    {fault: regtest.Fault{Status: http.StatusForbidden}, want: reason.Unauthorized},
		"a registry that always breaks":  {fault: regtest.Fault{Status: http.StatusBadGateway}, want: reason.RegistryError},
		"a registry that never gets far": {fault: regtest.Fault{CutAt: ptr(int64(10))}, want: reason.RegistryUnreachable},
		"a body without a declared end":  {change: func(l *Layer) { l.Size /= 2 }, fault: regtest.Fault{Header: http.Header{"Content-Length": {""}}}, want: reason.SizeMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			layers := b.pushGzip(t, sampleTars(t)...)
			tc.fault.Match = regtest.Path(layers[1].Digest.String(), http.MethodGet)
			if tc.fault.Status+len(tc.fault.Header) > 0 || tc.fault.FlipAt != nil || tc.fault.CutAt != nil {
				b.Inject(tc.fault)
			}
			if tc.change != nil {
				tc.change(&layers[1])
			}
			if err := b.make(t, layers); reason.Of(err) != tc.want {
				t.Errorf("got %v (%s), want %s", err, reason.Of(err), tc.want)
			}
			b.expectNothing(t)
		})
	}
}

func TestDamagedTarsLeaveNothing(t *testing.T) {
	t.Parallel()
	good := makeTar(t, file("f", noise(100_000)))
	for name, tc := range map[string]struct {
		blob []byte
		want reason.Code
	}{
		"not a tar":         {[]byte(strings.Repeat("nonsense ", 1000)), reason.ArtifactInvalid},
		"a tar that ends":   {good[:50_000], reason.ArtifactInvalid},
		"gzip that ends":    {packGzip(t, good)[:50_000], reason.ArtifactInvalid},
		"zstd with a hole":  {append(packZstd(t, good)[:1000], make([]byte, 1000)...), reason.ArtifactInvalid},
		"nothing but magic": {[]byte{0x1f, 0x8b}, reason.ArtifactInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			if err := b.make(t, b.push(t, ocispec.MediaTypeImageLayer, packNot, makeTar(t, file("a", "a")), tc.blob)); reason.Of(err) != tc.want {
				t.Errorf("got %v (%s), want %s", err, reason.Of(err), tc.want)
			}
			b.expectNothing(t)
		})
	}
}

func TestCancelledWorkLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	layers := b.pushGzip(t, sampleTars(t)...)
	ctx, cancel := context.WithCancel(t.Context())
	b.Inject(regtest.Fault{Match: regtest.Path(layers[2].Digest.String()), Hang: true})
	opts := b.options()
	opts.StallTimeout = time.Minute
	opts.Progress = func(p Progress) {
		if p.Unpacked == 2 {
			cancel()
		}
	}
	if err := Layers(ctx, b.tree(), layers, b.repo, opts); !errors.Is(err, context.Canceled) || reason.Of(err) != reason.Cancelled {
		t.Errorf("got %v", err)
	}
	b.expectNothing(t)
}

// TestSmallDisk unpacks to a file system that is too small.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		reserve int64
		tars    [][]byte
	}{
		"more than fits":                  {1, [][]byte{makeTar(t, file("a", "a")), makeTar(t, file("z", strings.Repeat("0", 40*mib)))}},
		"more blobs than fit":             {1, [][]byte{makeTar(t, file("z", noise(20*mib)))}},
		"more than may be used":           {14 * mib, [][]byte{makeTar(t, file("z", strings.Repeat("0", 4*mib)))}},
		"a bomb that overwrites itself":   {1, [][]byte{makeTar(t, file("z", strings.Repeat("0", 12*mib)), file("z", strings.Repeat("1", 12*mib)))}},
		"a bomb behind the tar's end":     {1, [][]byte{append(makeTar(t, file("z", "z")), make([]byte, 64*mib)...)}},
		"fits alone, not above the other": {1, [][]byte{makeTar(t, file("a", strings.Repeat("0", 10*mib))), makeTar(t, file("b", strings.Repeat("0", 10*mib)))}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.mountSmall(t, "size=16m")
			opts := b.options()
			opts.Reserve = tc.reserve
			if err := Layers(t.Context(), b.tree(), b.pushGzip(t, tc.tars...), b.repo, opts); !errors.Is(err, ErrNoRoom) {
				t.Errorf("got %v", err)
			}
			b.expectNothing(t)
		})
	}
	t.Run("too many files", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		b.mountSmall(t, "size=16m,nr_inodes=50")
		var many []entry
		for i := range 100 {
			many = append(many, file(strings.Repeat("x", i+1), ""))
		}
		if err := b.make(t, b.pushGzip(t, makeTar(t, many...))); !errors.Is(err, ErrNoRoom) {
			t.Errorf("got %v", err)
		}
		b.expectNothing(t)
	})
	t.Run("just enough", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		b.mountSmall(t, "size=16m")
		if err := b.make(t, b.pushGzip(t, sampleTars(t)...)); err != nil {
			t.Fatal(err)
		}
		b.expectSample(t)
	})
}

// mountSmall lets the bed work on a file system of its own.
func (b *bed) mountSmall(t *testing.T, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(b.dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

func TestOnlyAFewLayersAreFetchedAhead(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var tars [][]byte
	for i := range 12 {
		tars = append(tars, makeTar(t, file("f"+strings.Repeat("x", i), "f")))
	}
	layers := b.pushGzip(t, tars...)
	release := b.Inject(regtest.Fault{Match: regtest.Path(layers[0].Digest.String(), http.MethodGet), Hang: true})
	var asked atomic.Int32
	b.Inject(regtest.Fault{Match: func(r *http.Request) bool {
		if regtest.Path("blobs/", http.MethodGet)(r) && asked.Add(1) == fetchAhead {
			time.AfterFunc(100*time.Millisecond, func() { // long enough for more, if more were asked for
				if n := asked.Load(); n != fetchAhead {
					t.Errorf("%d layers asked for at once, want %d", n, fetchAhead)
				}
				release()
			})
		}
		return false
	}})
	opts := b.options()
	opts.StallTimeout = time.Minute
	if err := Layers(t.Context(), b.tree(), layers, b.repo, opts); err != nil {
		t.Fatal(err)
	}
}
