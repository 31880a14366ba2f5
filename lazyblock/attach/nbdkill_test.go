package attach_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

// victimDir tells TestNBDVictim, run as a process of its own, where to attach.
const victimDir = "REFEREE_TEST_NBD_VICTIM"

// TestNBDServerKilled kills the process that serves a volume while a reader
// waits for it: the next one gives the reader its bytes.
func TestNBDServerKilled(t *testing.T) {
	t.Parallel()
	requireNBD(t)
	dir := t.TempDir()
	image := makeExt4(t, dir)
	target := filepath.Join(dir, "root")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNBDVictim$")
	victim.Env = append(os.Environ(), victimDir+"="+dir)
	words, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, words, "attached")
	read := make(chan error, 1)
	go func() { // ends when the driver below answers; waited for below
		data, err := os.ReadFile(filepath.Join(target, "large"))
		if err == nil && !bytes.Equal(data, largeFile()) {
			err = fmt.Errorf("content differs")
		}
		read <- err
	}()
	await(t, words, "reading")
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // killed

	driver, err := attach.NewNBD(dir, nbd.Options{ResendAfter: 2 * time.Second, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := driver.Detach("vol", target); err != nil {
			t.Error(err)
		}
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
		if left, err := nbd.Find(dir); err != nil || len(left) != 0 {
			t.Errorf("devices left: %v (%v)", left, err)
		}
	})
	adopted, err := driver.Adopt("vol", lazyblock.Volume{FSType: "ext4", Primary: memory{data: image}}, target)
	if err != nil || !adopted {
		t.Fatalf("adopt: %t, %v", adopted, err)
	}
	driver.Adopted()
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the reader still waits")
	}
}

// TestNBDVictim is the process that TestNBDServerKilled kills.
func TestNBDVictim(t *testing.T) { //nolint:paralleltest // a process of its own
	dir := os.Getenv(victimDir)
	if dir == "" {
		return // not asked for
	}
	image, err := os.ReadFile(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	driver, err := attach.NewNBD(dir, nbd.Options{ResendAfter: 2 * time.Second, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	device := memory{data: image, hangs: make(chan struct{}), hung: make(chan struct{}, 1)}
	if err := driver.Attach(t.Context(), "vol", lazyblock.Volume{FSType: "ext4", Primary: device}, filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	close(device.hangs)
	_, _ = os.Stdout.WriteString("attached\n")
	<-device.hung
	_, _ = os.Stdout.WriteString("reading\n")
	<-t.Context().Done() // never: the process is killed
}

// memory is a device in memory whose reads hang once hangs is closed.
type memory struct {
	data  []byte
	hangs chan struct{}
	hung  chan struct{}
}

func (memory) ID() string    { return "vol" }
func (memory) Close() error  { return nil }
func (m memory) Size() int64 { return int64(len(m.data)) }

func (m memory) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	select {
	case <-m.hangs:
		select {
		case m.hung <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return 0, ctx.Err()
	default:
		return bytes.NewReader(m.data).ReadAt(p, off)
	}
}

func largeFile() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 1<<16) }

// makeExt4 makes dir/image, a file system with one file, and returns its bytes.
func makeExt4(t *testing.T, dir string) []byte {
	t.Helper()
	tree, image := filepath.Join(dir, "tree"), filepath.Join(dir, "image")
	if err := os.Mkdir(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "large"), largeFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-O", "^has_journal", "-d", tree, image, "16M").CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// await reads words until it has read the line.
func await(t *testing.T, words io.Reader, line string) {
	t.Helper()
	want := line + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(words, got); err != nil || string(got) != want {
		t.Fatalf("the process said %q (%v), not %q", got, err, line)
	}
}

func requireNBD(t *testing.T) {
	t.Helper()
	if err := nbd.Supported(); err != nil {
		t.Skip(err)
	}
	if unix.Geteuid() != 0 {
		t.Skip("attaching volumes needs root")
	}
}
