package attachtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// device is an image in memory whose reads can be made to hang or fail.
type device struct {
	id         string
	image      *bytes.Reader
	hang, fail atomic.Bool
	hung       chan struct{} // gets a value when a read begins to hang
}

func newDevice(id string, image []byte) *device {
	return &device{id: id, image: bytes.NewReader(image), hung: make(chan struct{}, 1)}
}

func (d *device) ID() string   { return d.id }
func (d *device) Size() int64  { return d.image.Size() }
func (d *device) Close() error { return nil }

func (d *device) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	if d.hang.Load() {
		select {
		case d.hung <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return 0, ctx.Err()
	}
	if d.fail.Load() {
		return 0, errors.New("device fails on purpose")
	}
	return d.image.ReadAt(p, off)
}

// image is a file system with what is in it.
type image struct {
	fsType  string
	primary []byte
	extra   []byte // of EROFS's second device; nil: there is none
	files   map[string][32]byte
}

// makeImage makes a file-system image. In arguments of mkfs BLOB stands for the
// file of the second device.
func makeImage(t *testing.T, fsType string, arguments ...string) image {
	t.Helper()
	dir := t.TempDir()
	tree, primary, blob := filepath.Join(dir, "tree"), filepath.Join(dir, "image"), filepath.Join(dir, "blob")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	made := image{fsType: fsType, files: make(map[string][32]byte)}
	random := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{"empty": 0, "small": 100, "page": 4096, "large": 3<<20 + 7} {
		data := make([]byte, size)
		_, _ = random.Read(data)
		if err := os.WriteFile(filepath.Join(tree, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		made.files[name] = sha256.Sum256(data)
	}
	command := []string{"mkfs.erofs"}
	if fsType == "ext4" {
		command = []string{"mkfs.ext4", "-q", "-O", "^has_journal", "-d", tree, primary, "16M"}
	} else {
		for _, argument := range arguments {
			command = append(command, strings.ReplaceAll(argument, "BLOB", blob))
		}
		command = append(command, primary, tree)
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("%s is not installed", command[0])
	}
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	var err error
	if made.primary, err = os.ReadFile(primary); err != nil {
		t.Fatal(err)
	}
	if made.extra, err = os.ReadFile(blob); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return made
}
