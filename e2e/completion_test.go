package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// eager makes the daemon complete volumes as soon as a start is quiet, however
// full the disk is that the tests run on.
const eager = "[completion]\nrate = \"1GiB\"\ndelay = \"500ms\"\nspare_disk = \"0%\"\n"

// lazily never has it complete any.
const lazily = "[completion]\nenabled = false\n"

// completed is what explain tells of a form's completion.
type completed struct {
	Whole       bool `json:"whole"`
	Quarantined *struct {
		Replaced *time.Time `json:"replaced"`
	} `json:"quarantined"`
}

func (b *bed) completion(t *testing.T, ref string) completed {
	t.Helper()
	var told struct {
		Completion completed `json:"completion"`
	}
	if err := json.Unmarshal([]byte(b.run(t, "explain", "--output", "json", ref)), &told); err != nil {
		t.Fatal(err)
	}
	return told.Completion
}

// TestCompletion waits until an image is whole and takes its registry away for good:
// a daemon that is killed finds on the disk what it needs.
func TestCompletion(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, eager+"settle = false\n")
	shelf := b.newShelf(t, testdata.Dir(t, "reference")+"/tiny", 3)
	b.pull(t, shelf.ref, fallback.Lazy)
	container := start(t, b.lazy, shelf.ref, "/bin/busybox", "sleep", "1000")
	eventually.True(t, "the image is whole", func() bool { return b.completion(t, shelf.ref).Whole })

	restore := b.registry.Inject(regtest.Fault{Drop: true})
	defer restore()
	b.registry.ResetRequests()
	b.end(t, b.referee.Kill)
	b.begin(t)
	dropCaches(t)
	for i := range shelf.sums {
		if r := shelf.readFile(t, container, i); !r.right {
			t.Errorf("file %d: %s", i, r.says)
		}
	}
	if requests, _ := b.blobRequests(); requests > 0 {
		t.Errorf("%d requests for blobs that are here", requests)
	}
	removePod(t, container)
	b.expectReleased(t, shelf.ref)
}

// TestQuarantine completes a form whose registry serves other bytes for a layer:
// what is wrong is found, told, and gone for new containers and pulls.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	l := newLiarWith(t, lazily)
	ref := l.serve(t, l.victim)
	l.pull(t, ref, fallback.Lazy)
	before := start(t, l.lazy, ref, "/bin/busybox", "sleep", "1000")
	l.expectLies(t, before)
	l.reconfigure(t, strings.Replace(l.text, lazily, eager, 1))

	eventually.True(t, "the form is replaced", func() bool {
		q := l.completion(t, ref).Quarantined
		return q != nil && q.Replaced != nil
	})
	after := start(t, l.lazy, ref, "/bin/busybox", "sleep", "1000")
	if own, err := after.Output(t.Context(), "/bin/busybox", "cat", "/own"); err != nil || own != honestOwn {
		t.Errorf("a new container reads %q (%v), want %q", own, err, honestOwn)
	}
	removePod(t, before)
	removePod(t, after)
	if err := l.lazy.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the volume is released", func() bool { return len(l.remains(t)) == 0 })
	entry := l.pull(t, ref, fallback.Ordinary)
	if entry.Reason != reason.Quarantined {
		t.Errorf("the next pull was ordinary for %s: %s", entry.Reason, entry.Sentence)
	}
}
