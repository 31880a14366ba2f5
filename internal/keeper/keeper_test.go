package keeper_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/referee-cri/referee/internal/keeper"
)

// client returns a client whose keeper runs in this process, and a function
// that waits for all keepers it started.
func client(t *testing.T) (keeper.Client, *sync.WaitGroup) {
	t.Helper()
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); running.Wait() })
	return keeper.Client{
		Path: filepath.Join(t.TempDir(), "keeper.sock"),
		Start: func(path string) error {
			running.Go(func() {
				if err := keeper.Serve(ctx, path); err != nil {
					t.Errorf("keeper: %v", err)
				}
			})
			return nil
		},
	}, &running
}

// take fails the test unless the keeper has the write end of reader's pipe.
func expectKept(t *testing.T, c keeper.Client, reader *os.File) {
	t.Helper()
	f, err := c.Take(t.Context())
	if err != nil || f == nil {
		t.Fatalf("take: %v, %v", f, err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(reader, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close(); _ = writer.Close() })
	return reader, writer
}

func TestKeptDescriptorOutlivesItsOwner(t *testing.T) {
	t.Parallel()
	c, running := client(t)
	if f, err := c.Take(t.Context()); f != nil || err != nil {
		t.Fatalf("before there is a keeper: %v, %v", f, err)
	}
	reader, writer := pipe(t)
	if err := c.Keep(t.Context(), writer); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	expectKept(t, c, reader) // and the pipe has not ended
	expectKept(t, c, reader)

	second, writer2 := pipe(t)
	if err := c.Keep(t.Context(), writer2); err != nil {
		t.Fatal(err)
	}
	expectKept(t, c, second)
	if n, err := reader.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the replaced descriptor is still open: read %d, %v", n, err)
	}

	if err := c.Quit(t.Context()); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if err := c.Quit(t.Context()); err != nil {
		t.Errorf("quit without a keeper: %v", err)
	}
	if f, err := c.Take(t.Context()); f != nil || err != nil {
		t.Errorf("after quit: %v, %v", f, err)
	}
}

func TestOnlyRootReachesTheKeeper(t *testing.T) {
	t.Parallel()
	c, _ := client(t)
	_, writer := pipe(t)
	if err := c.Keep(t.Context(), writer); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("socket has mode %o, want 600", mode)
	}
	if err := keeper.Serve(t.Context(), c.Path); err == nil {
		t.Error("a second keeper took over the socket of a living one")
	}
}
