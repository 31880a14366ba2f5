package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock/blob"
)

const size = 3 << 20

// stage is a registry that holds one blob.
type stage struct {
	reg     *regtest.Registry
	desc    ocispec.Descriptor
	content []byte
	hedged  atomic.Int64 // second requests that were told of; see paced
}

func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageOf(t, size)
}

func newStageOf(t *testing.T, n int) *stage {
	t.Helper()
	content := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content) // never fails
	reg := regtest.New(t, regtest.Options{})
	desc, err := reg.PutBlob("application/octet-stream", content)
	if err != nil {
		t.Fatal(err)
	}
	return &stage{reg: reg, desc: desc, content: content}
}

func (s *stage) repository(t *testing.T, opts registry.Options) *registry.Repository {
	t.Helper()
	if opts.HostDirs == nil {
		opts.HostDirs = []string{filepath.Join(t.TempDir(), "none")}
	}
	client := registry.New(opts)
	t.Cleanup(func() { _ = client.Close() })
	repo, err := client.Repository(s.reg.Host()+"/app", registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func (s *stage) open(t *testing.T, opts blob.Options) *blob.Blob {
	t.Helper()
	return blob.Open(s.repository(t, registry.Options{}), s.desc, opts)
}

// quick options make retries fast enough for tests.
func quick() blob.Options {
	return blob.Options{
		GiveUpAfter: 10 * time.Second, StallTimeout: 300 * time.Millisecond,
		MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
	}
}

func (s *stage) check(t *testing.T, b *blob.Blob, off, n int) {
	t.Helper()
	p := make([]byte, n)
	told := 0
	ctx := blob.WithProgress(t.Context(), func(more int) {
		if told += more; told > n || !bytes.Equal(p[told-more:told], s.content[off+told-more:off+told]) {
			t.Errorf("read %d at %d: wrong bytes among the first %d", n, off, told)
		}
	})
	got, err := b.ReadRange(ctx, p, int64(off))
	if err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	if got != n || !bytes.Equal(p, s.content[off:off+n]) {
		t.Fatalf("read %d at %d: wrong bytes (n = %d)", n, off, got)
	}
}

// TestProgressIsTold of a body whose rest is late.
func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.reg.Inject(regtest.Fault{Match: blobs(), BytesPerSecond: 1 << 20})
	told := 0
	ctx := blob.WithProgress(t.Context(), func(more int) { told += more })
	b := blob.Open(s.repository(t, registry.Options{}), s.desc, quick())
	if _, err := b.ReadRange(ctx, make([]byte, 100_000), 0); err != nil || told != 100_000 {
		t.Errorf("told of %d bytes, error %v", told, err)
	}
}

func blobs() func(*http.Request) bool { return regtest.Path("/blobs/") }

func ptr[T any](v T) *T { return &v }

// TestReadRangeSurvives lets things go wrong that a patient read must get over.
func TestReadRangeSurvives(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]regtest.Fault{
		"nothing wrong":                     {Match: func(*http.Request) bool { return false }},
		"connections dropped":               {Drop: true, Times: 3},
		"server errors":                     {Status: 503, Times: 4},
		"too many requests":                 {Status: 429, Times: 2, Header: http.Header{"Retry-After": {"0"}}},
		"bodies cut":                        {CutAt: ptr[int64](70_000), Times: 3},
		"every body cut, each with a piece": {CutAt: ptr[int64](100_000)},
		"bodies cut at their beginning":     {CutAt: ptr[int64](0), Times: 3},
		"a hanging answer":                  {Hang: true, Times: 1},
		"a stalling body":                   {BytesPerSecond: 1000, Times: 1},
		"Content-Range missing once":        {Header: http.Header{"Content-Range": nil}, Times: 1},
		"Content-Range of something else":   {Header: http.Header{"Content-Range": {"bytes 0-9/3145728"}}, Times: 2},
		"Range ignored once":                {IgnoreRange: true, Times: 1},
		"not found twice":                   {Status: 404, Times: 2},
		"an encoding nobody asked for":      {Header: http.Header{"Content-Encoding": {"br"}}, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			repo := s.repository(t, registry.Options{ResponseHeaderTimeout: 300 * time.Millisecond})
			b := blob.Open(repo, s.desc, quick())
			if fault.Match == nil {
				fault.Match = blobs()
			}
			s.reg.Inject(fault)
			s.check(t, b, 12_345, 1_000_000)
			s.check(t, b, size-10, 10)
		})
	}
}

// TestReadRangeFails checks what the caller is told, and that a hurried read
// says so long before its deadline where trying again cannot help.
func TestReadRangeFails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault regtest.Fault
		desc  func(*ocispec.Descriptor)
		want  reason.Code
	}{
		"not found":            {regtest.Fault{Status: 404}, nil, reason.NotFound},
		"forbidden":            {regtest.Fault{Status: 403}, nil, reason.Unauthorized},
		"range ignored":        {regtest.Fault{IgnoreRange: true}, nil, reason.NoRange},
		"server error":         {regtest.Fault{Status: 500}, nil, reason.RegistryError},
		"dropped":              {regtest.Fault{Drop: true}, nil, reason.RegistryUnreachable},
		"other total":          {regtest.Fault{}, func(d *ocispec.Descriptor) { d.Size++ }, reason.SizeMismatch},
		"shorter than claimed": {regtest.Fault{}, func(d *ocispec.Descriptor) { d.Size = 10 * size }, reason.SizeMismatch},
		"retry-after too late": {regtest.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}}, nil, reason.RegistryError},
		"digest with a path":   {regtest.Fault{}, func(d *ocispec.Descriptor) { d.Digest = "sha256:../../x" }, reason.ArtifactInvalid},
		"Content-Range absurd": {regtest.Fault{Header: http.Header{"Content-Range": {"bytes 9-1/2"}}}, nil, reason.RegistryError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			if tc.desc != nil {
				tc.desc(&s.desc)
			}
			b := s.open(t, quick())
			tc.fault.Match = blobs()
			s.reg.Inject(tc.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			start := time.Now()
			off := int64(5000)
			if name == "shorter than claimed" {
				off = 5 * size
			}
			_, err := b.ReadRange(ctx, make([]byte, 100), off)
			if got := reason.Of(err); got != tc.want {
				t.Errorf("reason %q (%v), want %q", got, err, tc.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s to fail", took)
			}
		})
	}
}

func TestPatientReadGivesUpInTime(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	opts := quick()
	opts.GiveUpAfter = 200 * time.Millisecond
	b := s.open(t, opts)
	s.reg.Inject(regtest.Fault{Match: blobs(), Status: 502})
	start := time.Now()
	_, err := b.ReadRange(t.Context(), make([]byte, 10), 0)
	if got := reason.Of(err); got != reason.RegistryError {
		t.Errorf("reason %q (%v)", got, err)
	}
	if took := time.Since(start); took < 100*time.Millisecond || took > 3*time.Second {
		t.Errorf("gave up after %s, want about 200ms", took)
	}
	if status, ok := errors.AsType[*registry.StatusError](err); !ok || status.StatusCode != 502 {
		t.Errorf("no StatusError 502 in %v", err)
	}
}

// TestPatientReadEndsSilenceInTime meets servers that are there and say nothing,
// with the other limits as a node has them.
func TestPatientReadEndsSilenceInTime(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]regtest.Fault{
		"no answer": {Hang: true},
		"no body":   {BytesPerSecond: 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			b := s.open(t, blob.Options{GiveUpAfter: 300 * time.Millisecond})
			fault.Match = blobs()
			s.reg.Inject(fault)
			start := time.Now()
			_, err := b.ReadRange(t.Context(), make([]byte, 32<<10), 0)
			if got := reason.Of(err); got != reason.RegistryUnreachable {
				t.Errorf("reason %q (%v)", got, err)
			}
			if took := time.Since(start); took < 200*time.Millisecond || took > 3*time.Second {
				t.Errorf("gave up after %s, want about 300ms", took)
			}
		})
	}
}

func TestReadRangeStopsWithContext(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.open(t, blob.Options{})
	s.reg.Inject(regtest.Fault{Match: blobs(), Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	_, err := b.ReadRange(ctx, make([]byte, 10), 0)
	if !errors.Is(err, context.Canceled) || reason.Of(err) != reason.Cancelled {
		t.Errorf("error %v, want cancelled", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s to stop", took)
	}
}

func TestReadRangeAtTheEnd(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	b := s.open(t, quick())
	p := make([]byte, 100)
	n, err := b.ReadRange(t.Context(), p, size-40)
	if n != 40 || !errors.Is(err, io.EOF) || !bytes.Equal(p[:40], s.content[size-40:]) {
		t.Errorf("across the end: %d, %v", n, err)
	}
	for _, off := range []int64{size, size + 1, 1 << 62} {
		if n, err := b.ReadRange(t.Context(), p, off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	if n, err := b.ReadRange(t.Context(), nil, 5); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
	if _, err := b.ReadRange(t.Context(), p, -1); err == nil {
		t.Error("negative offset accepted")
	}
}

func TestShortBlobNeedsNoRanges(t *testing.T) {
	t.Parallel()
	s := newStageOf(t, 100_000)
	b := s.open(t, quick())
	s.reg.Inject(regtest.Fault{Match: blobs(), IgnoreRange: true})
	s.check(t, b, 60_000, 1000)
	s.check(t, b, 0, 100_000)
}

// TestIgnoredRangeCostsNothing makes sure that no long body is read in vain.
func TestIgnoredRangeCostsNothing(t *testing.T) {
	t.Parallel()
	s := newStageOf(t, 32<<20)
	b := s.open(t, quick())
	s.reg.Inject(regtest.Fault{Match: blobs(), IgnoreRange: true})
	for _, off := range []int64{0, 1 << 20} {
		if _, err := b.ReadRange(t.Context(), make([]byte, 100), off); reason.Of(err) != reason.NoRange {
			t.Fatalf("error %v, want no-range", err)
		}
	}
	if got := b.Stats().Bytes; got != 0 {
		t.Errorf("%d bytes read of a body that is of no use", got)
	}
}

func TestRedirectIsRemembered(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.reg.Configure(func(f *regtest.Features) { f.RedirectBlobs = true })
	b := s.open(t, quick())
	for i := range 10 {
		s.check(t, b, i*1000, 1000)
	}
	asked, _ := s.reg.Count(func(e regtest.Entry) bool { return e.Server == "registry" && strings.Contains(e.Path, "/blobs/") })
	served, _ := s.reg.Count(func(e regtest.Entry) bool { return e.Server == "storage" })
	leaked, _ := s.reg.Count(func(e regtest.Entry) bool { return e.Server == "storage" && e.Authorized })
	if asked != 1 || served != 10 || leaked != 0 {
		t.Errorf("registry asked %d times, storage %d times, %d with Authorization", asked, served, leaked)
	}
}

func TestExpiredRedirectIsRenewed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 410} {
		s := newStage(t)
		s.reg.Configure(func(f *regtest.Features) { f.RedirectBlobs = true })
		b := s.open(t, quick())
		s.check(t, b, 0, 1000)
		s.reg.Inject(regtest.Fault{
			Match: func(r *http.Request) bool { return r.Host == s.reg.StorageHost() }, Status: status, Times: 1,
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // hurried: no second chance beside the renewal
		defer cancel()
		p := make([]byte, 1000)
		if _, err := b.ReadRange(ctx, p, 5000); err != nil || !bytes.Equal(p, s.content[5000:6000]) {
			t.Errorf("after %d from storage: %v", status, err)
		}
		if asked, _ := s.reg.Count(func(e regtest.Entry) bool { return e.Server == "registry" && strings.Contains(e.Path, "/blobs/") }); asked != 2 {
			t.Errorf("registry asked %d times after %d from storage, want 2", asked, status)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	opts := quick()
	opts.MaxRequests = 2
	b := s.open(t, opts)
	var mu sync.Mutex
	running, most := 0, 0
	s.reg.Inject(regtest.Fault{Match: func(r *http.Request) bool {
		if !blobs()(r) {
			return false
		}
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		return true
	}, Latency: 20 * time.Millisecond, Rewrite: func(p []byte) []byte {
		mu.Lock()
		running--
		mu.Unlock()
		return p
	}})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			p := make([]byte, 100)
			if _, err := b.ReadRange(t.Context(), p, int64(i*1000)); err != nil || !bytes.Equal(p, s.content[i*1000:i*1000+100]) {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if most > 2 {
		t.Errorf("%d requests at once, want at most 2", most)
	}
	if got := b.Stats(); got.Requests != 12 || got.Bytes != 1200 || got.Failures != 0 {
		t.Errorf("stats %+v", got)
	}
}

// TestUnfitMirrorIsPassedBy: a mirror that cannot serve the range, in whatever
// way, costs one try and no error.
func TestUnfitMirrorIsPassedBy(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]regtest.Fault{
		"lacks the blob":    {Status: 404},
		"ignores Range":     {IgnoreRange: true},
		"has another size":  {Header: http.Header{"Content-Range": {"bytes 5000-5999/6000"}}},
		"cuts every body":   {CutAt: ptr[int64](10)},
		"drops connections": {Drop: true},
		"stalls":            {BytesPerSecond: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mirror := newStage(t)
			origin := newStage(t)
			mirror.reg.Inject(fault)
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, "registry.example"), 0o755); err != nil {
				t.Fatal(err)
			}
			hosts := fmt.Sprintf("server = %q\n[host.%q]\n", origin.reg.URL(), mirror.reg.URL())
			if err := os.WriteFile(filepath.Join(root, "registry.example", "hosts.toml"), []byte(hosts), 0o600); err != nil {
				t.Fatal(err)
			}
			client := registry.New(registry.Options{HostDirs: []string{root}})
			t.Cleanup(func() { _ = client.Close() })
			repo, err := client.Repository("registry.example/app", registry.Credentials{})
			if err != nil {
				t.Fatal(err)
			}
			b := blob.Open(repo, origin.desc, quick())
			for i := range 5 {
				origin.check(t, b, 5000+i*1000, 1000)
			}
			if n, _ := mirror.reg.Count(nil); n > 2 {
				t.Errorf("the mirror was asked %d times", n)
			}
			if n, _ := mirror.reg.Count(func(e regtest.Entry) bool { return e.Query != "ns=registry.example" }); n != 0 {
				t.Errorf("%d requests without ns=", n)
			}
		})
	}
}
