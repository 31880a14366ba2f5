package attachtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what takes no time where all is well, or a driver's time-out.
const patience = time.Minute

// restart closes the driver, as the end of its process would, and opens the next.
func (b *bench) restart(t *testing.T) {
	t.Helper()
	b.close(t)
	b.open(t)
}

// mustAdopt has the driver take volume id over with working devices.
func (b *bench) mustAdopt(t *testing.T, id, target string) {
	t.Helper()
	adopted, err := b.driver.Adopt(id, b.volume(b.device(id)), target)
	if err != nil {
		t.Fatal(err)
	}
	if !adopted {
		t.Fatal("the driver found nothing to adopt")
	}
}

func isTakenOver(t *testing.T, b *bench) {
	target := b.mustAttach(t, "vol", b.device("vol"))
	b.restart(t)
	if adopted, err := b.driver.Adopt("other", b.volume(b.device("other")), filepath.Join(b.dir, "mnt-other")); err != nil || adopted {
		t.Errorf("a volume that nobody attached: adopted %t, %v", adopted, err)
	}
	b.mustAdopt(t, "vol", target)
	b.driver.Adopted()
	readAll(t, b, target)
	// What was taken over once can be so again.
	b.restart(t)
	b.mustAdopt(t, "vol", target)
	b.driver.Adopted()
	forget(t, filepath.Join(target, "large"))
	readAll(t, b, target)
}

// forget drops what the kernel has cached of a file.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

func answersWaiting(t *testing.T, b *bench) {
	if !b.kind.Resends {
		t.Skipf("not promised: this kernel never sends a %s request again", b.driver.Name())
	}
	device := b.device("vol")
	target := b.mustAttach(t, "vol", device)
	device.hang.Store(true)
	result := readLarge(b, target)
	await(t, "a read to reach the driver", device.hung)
	b.restart(t)
	b.mustAdopt(t, "vol", target)
	b.driver.Adopted()
	if err := await(t, "the read to end", result); err != nil {
		t.Error(err)
	}
	readAll(t, b, target)
}

func failsLeftOver(t *testing.T, b *bench) {
	target := b.mustAttach(t, "vol", b.device("vol"))
	b.restart(t)
	b.driver.Adopted()
	if err := await(t, "the read to end", readLarge(b, target)); !errors.Is(err, unix.EIO) {
		t.Errorf("read of what nobody serves: got %v, want EIO", err)
	}
}

// readLarge reads the largest file in the background. The reader ends when the
// driver answers, or when the volume is detached.
func readLarge(b *bench, target string) <-chan error {
	result := make(chan error, 1)
	go func() {
		data, err := os.ReadFile(filepath.Join(target, "large"))
		if err == nil && sha256.Sum256(data) != b.files["large"] {
			err = fmt.Errorf("content differs")
		}
		result <- err
	}()
	return result
}

// await returns what comes, or ends the test.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case got := <-c:
		return got
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("not reached")
	}
}
