package e2e_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
)

// readForever prints one checksum of everything in /data and /nasty, over and over.
const readForever = `while true; do
  if sum=$(find /data /nasty -type f -print0 | sort -z | xargs -0 md5sum 2>/tmp/errors | md5sum); then echo "sum $sum"; fi
  test -s /tmp/errors && echo "errors $(cat /tmp/errors)"
done`

// TestReadersSurvive keeps a container reading while the daemon is stopped,
// killed and started again: the reader waits, and never sees an error or a
// wrong byte.
func TestReadersSurvive(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	b.pushTiny(t)
	for name, tag := range map[string]string{
		"ext4 through a loop device": "tiny",            // stock's form is attached to it
		"EROFS from a file":          "tiny-lower-link", // ours will be
	} {
		t.Run(name, func(t *testing.T) {
			ref := b.registry.Ref("tiny", tag)
			if tag != "tiny" {
				b.run(t, "convert", ref)
			}
			b.pull(t, ref, fallback.Lazy)
			container := start(t, b.lazy, ref, "/bin/busybox", "sh", "-c", readForever)
			sums := &checksums{container: container}
			sums.next(t) // it reads at all
			for range 4 {
				b.end(t, b.referee.Kill)
				dropCaches(t)
				b.begin(t)
				sums.next(t)
				b.end(t, b.referee.Stop)
				dropCaches(t)
				b.begin(t)
				sums.next(t)
			}
			removePod(t, container)
			b.expectReleased(t, ref)
		})
	}
}

// checksums is what a container running readForever has printed.
type checksums struct {
	container *node.Container
	first     string
	seen      int
}

// next waits for two more checksums, of which one at least began after the call,
// and fails if any differs from the first or the reader saw an error.
func (c *checksums) next(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for goal := c.seen + 2; c.seen < goal; {
		if time.Now().After(deadline) {
			t.Fatalf("the reader is stuck after %d rounds", c.seen)
		}
		log, err := c.container.Logs()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(strings.ReplaceAll(log, "sum ", ""))
		if strings.Contains(log, "errors") {
			t.Fatalf("the reader saw an error:\n%s", log)
		}
		c.seen = 0
		for _, line := range lines {
			if len(line) != 32 {
				continue
			}
			if c.first == "" {
				c.first = line
			}
			if line != c.first {
				t.Fatalf("the reader got %s, before that %s", line, c.first)
			}
			c.seen++
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dropCaches makes the kernel forget what it has read, on the whole machine.
func dropCaches(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}
