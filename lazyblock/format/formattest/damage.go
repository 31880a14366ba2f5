package formattest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// bearsFaults reads concurrently from blobs that fail at times.
func (b *bench) bearsFaults(t *testing.T) {
	wants := b.intact(t)
	var days []*badDay
	form := b.Image.whole(func(i int, data []byte) lazyblock.RangeReader {
		day := &badDay{RangeReader: inMemory(i, data), wrong: !b.Unverified, rng: rand.New(rand.NewPCG(uint64(i), 2)), over: true}
		days = append(days, day)
		return day
	})
	v, err := b.Open(t.Context(), form)
	if err != nil {
		t.Fatal(err)
	}
	defer closeVolume(t, v)
	for _, day := range days {
		day.mu.Lock()
		day.over = false
		day.mu.Unlock()
	}
	var group sync.WaitGroup
	for seed := range uint64(4) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 3))
			for i, d := range devices(v) {
				for range 100 {
					off, p := somewhere(rng, wants[i])
					n, err := d.ReadRange(t.Context(), p, off)
					if n == len(p) && !bytes.Equal(p, wants[i][off:off+int64(n)]) {
						t.Errorf("device %d: %d bytes at %d are wrong, error %v", i, n, off, err)
					} else if n < len(p) && err == nil {
						t.Errorf("device %d: %d bytes of %d at %d and no error", i, n, len(p), off)
					}
				}
			}
		})
	}
	group.Wait()
	for _, day := range days {
		day.end()
	}
	b.same(t, "after a bad day", v, wants)
}

// readsAnew reads from a cache that is rotten until it forgets.
func (b *bench) readsAnew(t *testing.T) {
	if b.Unverified {
		t.Skip("the format has nothing to tell wrong bytes by")
	}
	wants := b.intact(t)
	v, err := b.Open(t.Context(), b.Image.whole(func(i int, data []byte) lazyblock.RangeReader {
		return &rotten{RangeReader: inMemory(i, data), healed: map[int64]bool{}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer closeVolume(t, v)
	b.same(t, "from a rotten cache", v, wants)
}

func (b *bench) same(t *testing.T, when string, v lazyblock.Volume, wants [][]byte) {
	t.Helper()
	for i, d := range devices(v) {
		got, err := dump(t.Context(), d)
		if err != nil {
			t.Errorf("device %d, %s: %v", i, when, err)
		} else if !bytes.Equal(got, wants[i]) {
			t.Errorf("device %d, %s: wrong bytes", i, when)
		}
	}
}

const tries = 16 // of random damage to a form

// bearsFlips changes one byte at a time, most of them in the ends of blobs, where
// formats have their indexes. What is read then is what the byte has a part in: to
// read all of a form each time takes minutes on a busy machine.
func (b *bench) bearsFlips(t *testing.T) {
	if b.Unverified {
		t.Skip("the format has nothing to tell wrong bytes by")
	}
	needs := b.learn(t)
	b.bearsChanges(t, needs, func(rng *rand.Rand, data []byte) (changed []byte, at int) {
		at = rng.IntN(len(data))
		switch end := min(len(data), 4096); rng.IntN(4) {
		case 0:
			at = rng.IntN(end)
		case 1, 2:
			at = len(data) - 1 - rng.IntN(end)
		}
		changed = bytes.Clone(data)
		changed[at] ^= byte(1 + rng.IntN(255))
		return changed, at
	})
}

// bearsTruncation cuts blobs short.
func (b *bench) bearsTruncation(t *testing.T) {
	b.bearsChanges(t, nil, func(rng *rand.Rand, data []byte) ([]byte, int) {
		end := rng.IntN(len(data))
		return data[:end], end
	})
}

// bearsChanges opens and reads forms of which one blob was changed, from one byte
// on: every read must fail or give what the intact form gives. Without needs all of
// a form is read.
func (b *bench) bearsChanges(t *testing.T, needs *needs, change func(*rand.Rand, []byte) ([]byte, int)) {
	wants := b.intact(t)
	rng := rand.New(rand.NewPCG(4, 4))
	for range tries {
		victim, at := rng.IntN(len(b.Image.Layers)+len(b.Image.Tables)), 0
		v, err := b.Open(t.Context(), b.Image.whole(func(i int, data []byte) lazyblock.RangeReader {
			if i == victim {
				data, at = change(rng, data)
			}
			return inMemory(i, data)
		}))
		if err != nil {
			continue
		}
		for i, d := range devices(v) {
			var pieces map[int]bool
			if needs != nil {
				pieces = needs.affected(i, victim, int64(at))
			}
			if !rightWhereRead(t.Context(), d, wants[i], pieces) {
				t.Errorf("blob %d changed: device %d gives wrong bytes", victim, i)
			}
		}
		closeVolume(t, v)
	}
}

// tells opens and reads a form with a damage, which must fail for its reason.
func (b *bench) tells(t *testing.T, damage Damage) {
	changed := false
	v, err := b.Open(t.Context(), b.Image.whole(func(i int, data []byte) lazyblock.RangeReader {
		other := damage.Change(i, slices.Clip(data))
		changed = changed || !bytes.Equal(other, data)
		return inMemory(i, other)
	}))
	if !changed {
		t.Fatal("the damage changes nothing")
	}
	if err == nil {
		defer closeVolume(t, v)
		for _, d := range devices(v) {
			if _, err = dump(t.Context(), d); err != nil {
				break
			}
		}
	}
	if got := reason.Of(err); got != damage.Reason {
		t.Errorf("error %v has code %q, want %q", err, got, damage.Reason)
	} else {
		t.Log(err)
	}
}
