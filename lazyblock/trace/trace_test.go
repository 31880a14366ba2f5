package trace

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func valid() Trace {
	return Trace{
		Version:  Version,
		Artifact: digest.FromString("form"),
		Layers:   []Layer{{digest.FromString("a"), 1 << 20}, {digest.FromString("b"), 5}},
		Ranges:   []Range{{0, 65536, 4096, 0}, {1, 0, 5, 0}},
	}
}

func TestDecodeRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Trace)
		want   string
	}{
		"right":          {func(*Trace) {}, ""},
		"newer version":  {func(t *Trace) { t.Version = 2 }, "version 2, want 1"},
		"no artifact":    {func(t *Trace) { t.Artifact = "" }, "artifact"},
		"no such layer":  {func(t *Trace) { t.Ranges[0].Layer = 2 }, "layer 2 of 2"},
		"beyond the end": {func(t *Trace) { t.Ranges[1].Length = 6 }, "6 bytes at 0 of a layer of 5"},
		"overflow":       {func(t *Trace) { t.Ranges[1].Offset, t.Ranges[1].Length = 5, 1<<63-1 }, "of a layer of 5"},
		"negative":       {func(t *Trace) { t.Ranges[0].Offset = -1 }, "at -1"},
		"empty range":    {func(t *Trace) { t.Ranges[0].Length = 0 }, "0 bytes"},
		"negative size":  {func(t *Trace) { t.Layers[0].Size = -1 }, "size -1"},
		"path as digest": {func(t *Trace) { t.Layers[0].Digest = "sha256:../x" }, "digest"},
		"many ranges":    {func(t *Trace) { t.Ranges = make([]Range, maxRanges+1) }, "16385 ranges"},
		"many layers":    {func(t *Trace) { t.Layers = make([]Layer, maxLayers+1) }, "513 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := valid()
			c.change(&in)
			data, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Decode(data)
			if c.want == "" {
				if err != nil || !cmp.Equal(*out, in) {
					t.Errorf("%v: %s", err, cmp.Diff(in, *out))
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	data, err := json.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		trace, err := Decode(data)
		if err != nil {
			return
		}
		for _, r := range requests(trace.Ranges, 1<<30) {
			if size := trace.Layers[r.Layer].Size; r.Offset < 0 || r.Length <= 0 || r.Offset+r.Length > size {
				t.Errorf("asks for %+v of a layer of %d", r, size)
			}
		}
	})
}

func TestRequestsMergeNeighbours(t *testing.T) {
	t.Parallel()
	const k, m = 1 << 10, 1 << 20
	for name, c := range map[string]struct {
		in, want []Range
		most     int64
	}{
		"neighbours in any order": {
			in:   []Range{{0, 128 * k, 64 * k, 0}, {0, 0, 64 * k, 0}, {0, 64 * k, 64 * k, 0}},
			want: []Range{{0, 0, 192 * k, 0}},
		},
		"a small gap is fetched":   {in: []Range{{0, 0, 64 * k, 0}, {0, 96 * k, 64 * k, 0}}, want: []Range{{0, 0, 160 * k, 0}}},
		"a large gap is not":       {in: []Range{{0, 0, 64 * k, 0}, {0, 128 * k, 64 * k, 0}}, want: []Range{{0, 0, 64 * k, 0}, {0, 128 * k, 64 * k, 0}}},
		"layers stay apart":        {in: []Range{{0, 0, 64 * k, 0}, {1, 64 * k, 64 * k, 0}}, want: []Range{{0, 0, 64 * k, 0}, {1, 64 * k, 64 * k, 0}}},
		"first use goes first":     {in: []Range{{0, 20 * m, 8 * m, 0}, {0, 0, 64 * k, 0}}, want: []Range{{0, 20 * m, 8 * m, 0}, {0, 0, 64 * k, 0}}},
		"no longer than is useful": {in: []Range{{0, 0, 3 * m, 0}, {0, 3 * m, 3 * m, 0}}, want: []Range{{0, 0, 3 * m, 0}, {0, 3 * m, 3 * m, 0}}},
		"no more than allowed":     {in: []Range{{0, 0, 3 * m, 0}, {0, 4 * m, 3 * m, 0}}, most: 4 * m, want: []Range{{0, 0, 3 * m, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.most == 0 {
				c.most = 1 << 40
			}
			if diff := cmp.Diff(c.want, requests(c.in, c.most)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStoreKeepsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store.most = 3
	const repository = "registry.test/app"
	of := func(i int) digest.Digest { return digest.FromString(strings.Repeat("x", i)) }
	for i := range 4 {
		if err := store.Update(repository, of(i), func(*Trace) {}); err != nil {
			t.Fatal(err)
		}
		written := time.Now().Add(time.Duration(i-10) * time.Second)
		if err := os.Chtimes(store.path(repository, of(i)), written, written); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		if _, err := store.Get(repository, of(i)); (i == 0) != errors.Is(err, ErrNone) {
			t.Errorf("trace %d: %v", i, err)
		}
	}
}
