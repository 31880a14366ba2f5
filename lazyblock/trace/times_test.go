package trace

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is read at once is one range, and its time that of its first byte.
func TestRecordingsKnowWhenReadsCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecording([]ocispec.Descriptor{{Size: 10 * unit}}, nil, 1<<20)
		after := func(d time.Duration, off, n int64) {
			<-time.After(d)
			r.touch(0, off, n)
		}
		after(0, 0, unit)
		after(20*time.Millisecond, unit, unit)      // goes on
		after(time.Second, 2*unit, unit)            // a neighbour, and later
		after(time.Second, 0, 2*unit)               // known
		after(500*time.Millisecond, 9*unit, unit/2) // elsewhere
		want := []Range{
			{Layer: 0, Offset: 0, Length: 2 * unit},
			{Layer: 0, Offset: 2 * unit, Length: unit, At: 1.02},
			{Layer: 0, Offset: 9 * unit, Length: unit, At: 2.52},
		}
		if diff := cmp.Diff(want, r.taken()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestTimesStayOnTheNode(t *testing.T) {
	t.Parallel()
	timed := valid()
	timed.Began = time.Now()
	timed.Ranges[1].At = 2.5
	exported, err := timed.Export()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(exported)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid().Ranges, got.Ranges); diff != "" || !got.Began.IsZero() {
		t.Errorf("exported with times: began %v\n%s", got.Began, diff)
	}
	if timed.Ranges[1].At != 2.5 {
		t.Error("Export changed the trace itself")
	}
}
