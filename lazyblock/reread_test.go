package lazyblock_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// cached is a blob in a cache with wrong bytes that go when they are invalidated.
type cached struct {
	data []byte

	mu     sync.Mutex
	wrong  map[int64]bool
	forgot int
	broken bool // wrong bytes stay
}

func (c *cached) Size() int64 { return int64(len(c.data)) }

func (c *cached) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(c.data).ReadAt(p, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := range c.wrong {
		if at >= off && at < off+int64(n) {
			p[at-off]++
		}
	}
	return n, err
}

func (c *cached) Invalidate(_ context.Context, off, n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgot++
	for at := range c.wrong {
		if at >= off && at < off+n && !c.broken {
			delete(c.wrong, at)
		}
	}
	return nil
}

// parse reads two structures, one after the other, and wants zeros in both.
func parse(ctx context.Context, r lazyblock.RangeReader) (string, error) {
	for _, off := range []int64{10, 500} {
		p := make([]byte, 100)
		if err := lazyblock.ReadFull(ctx, r, p, off); err != nil {
			return "", err
		}
		if !bytes.Equal(p, make([]byte, 100)) {
			return "", reason.Errorf(reason.FormatCorrupt, "wrong bytes behind %d", off)
		}
	}
	return "parsed", nil
}

func TestRereadDropsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		blob   *cached
		want   string
		forgot int
	}{
		"all is right":                {&cached{}, "parsed", 0},
		"one structure is wrong":      {&cached{wrong: map[int64]bool{510: true}}, "parsed", 2},
		"two are wrong":               {&cached{wrong: map[int64]bool{20: true, 510: true}}, "parsed", 2},
		"what was not read is wrong":  {&cached{wrong: map[int64]bool{300: true}}, "parsed", 0},
		"it is wrong in the registry": {&cached{wrong: map[int64]bool{20: true}, broken: true}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.blob.data = make([]byte, 1000)
			got, err := lazyblock.Reread(t.Context(), tc.blob, parse)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
			if tc.blob.forgot != tc.forgot {
				t.Errorf("%d ranges dropped, want %d", tc.blob.forgot, tc.forgot)
			}
		})
	}
}

func TestRereadLeavesOtherErrors(t *testing.T) {
	t.Parallel()
	blob := &cached{data: make([]byte, 10)}
	calls := 0
	boom := errors.New("the network")
	_, err := lazyblock.Reread(t.Context(), blob, func(context.Context, lazyblock.RangeReader) (int, error) {
		calls++
		return 0, boom
	})
	if !errors.Is(err, boom) || calls != 1 || blob.forgot != 0 {
		t.Errorf("%v after %d calls, %d ranges dropped", err, calls, blob.forgot)
	}
}

func TestDeviceEndsInZeros(t *testing.T) {
	t.Parallel()
	d := lazyblock.NewDevice("name", &cached{data: bytes.Repeat([]byte("x"), 5000)}, nil)
	if d.Size() != 8192 || d.ID() != "name" {
		t.Errorf("%s has %d bytes", d.ID(), d.Size())
	}
	p := make([]byte, 8192)
	if _, err := d.ReadRange(t.Context(), p, 0); err != nil || !bytes.Equal(p, append(bytes.Repeat([]byte("x"), 5000), make([]byte, 3192)...)) {
		t.Errorf("other bytes, or %v", err)
	}
	if _, err := d.ReadRange(t.Context(), p[:100], 8000); err != nil || !bytes.Equal(p[:100], make([]byte, 100)) {
		t.Errorf("no zeros, or %v", err)
	}
}
