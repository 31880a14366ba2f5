package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soakReport is what a reader has seen when it ends.
type soakReport struct {
	Reads   int           // of the image
	Bytes   int64         // in them
	Writes  int           // over the image, read back
	Wrong   []string      // reads that gave other bytes than the image has
	Errors  []soakError   // reads and writes that failed
	Longest time.Duration // one read or write …
	Since   time.Time     // … that began then
}

type soakError struct {
	Began, Ended time.Time
	Text         string
}

// maxSoakErrors is how many errors a reader tells of; the rest are like them.
const maxSoakErrors = 100

// TestSoakReader is not a test but the process that reads in TestSoak: a read that
// hangs must not take the test along.
func TestSoakReader(t *testing.T) { //nolint:paralleltest // it is alone in its process
	root := os.Getenv("SOAK_ROOT")
	if root == "" {
		t.Skip("it is the reader that TestSoak starts")
	}
	files, err := strconv.Atoi(os.Getenv("SOAK_FILES"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(os.Getenv("SOAK_SEED"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r := newSoakReader(root, files, seed)
	ended := make(chan struct{})
	go func() { // ends with the standard input
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		default:
			r.step()
		}
	}
	data, err := json.Marshal(r.report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("SOAK_REPORT"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

type soakReader struct {
	root   string
	files  [][]byte // what shelf.layer has written; the last is changed in the container
	random *rand.Rand
	buffer []byte
	report soakReport
}

func newSoakReader(root string, files int, seed uint64) *soakReader {
	r := &soakReader{root: root, random: rand.New(rand.NewPCG(seed, 0)), buffer: make([]byte, 1<<20)}
	source := rand.NewChaCha8([32]byte{1})
	for range files {
		content := make([]byte, fileSize)
		_, _ = source.Read(content) // never fails
		r.files = append(r.files, content)
	}
	return r
}

// step does one thing: mostly a read, at times a write over the image.
func (r *soakReader) step() {
	began := time.Now()
	var err error
	if r.random.IntN(20) == 0 {
		err = r.write()
	} else {
		err = r.read(r.random.IntN(len(r.files)))
	}
	took := time.Since(began)
	if took > r.report.Longest {
		r.report.Longest, r.report.Since = took, began
	}
	if err != nil && len(r.report.Errors) < maxSoakErrors {
		r.report.Errors = append(r.report.Errors, soakError{began, time.Now(), err.Error()})
	}
}

// read compares a random part of a file that the kernel has been told to forget.
func (r *soakReader) read(i int) (err error) {
	n := 1 + r.random.IntN(256<<10)
	if r.random.IntN(10) == 0 {
		n = len(r.buffer)
	}
	off := r.random.Int64N(fileSize - int64(n) + 1)
	file, err := os.Open(r.path(i))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if r.random.IntN(2) == 0 {
		if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("forget %s: %w", file.Name(), err)
		}
	}
	got := r.buffer[:n]
	if _, err := file.ReadAt(got, off); err != nil {
		return err
	}
	r.report.Reads++
	r.report.Bytes += int64(n)
	if !bytes.Equal(got, r.files[i][off:off+int64(n)]) {
		r.report.Wrong = append(r.report.Wrong, fmt.Sprintf("%d bytes at %d of %s", n, off, file.Name()))
	}
	return nil
}

// write changes some bytes of the last file, which the first time copies it up.
func (r *soakReader) write() (err error) {
	i := len(r.files) - 1
	off := r.random.Int64N(fileSize - 8)
	text := []byte(fmt.Sprintf("%08d", r.random.IntN(1e8)))
	file, err := os.OpenFile(r.path(i), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteAt(text, off); err != nil {
		return err
	}
	copy(r.files[i][off:], text)
	r.report.Writes++
	return nil
}

func (r *soakReader) path(i int) string { return filepath.Join(r.root, "f", strconv.Itoa(i)) }

// soakReading is a running reader.
type soakReading struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	report string
	output bytes.Buffer
	done   chan error
}

// readAtRandom starts a reader of a container's root.
func readAtRandom(t *testing.T, root string, files int, seed uint64) *soakReading {
	t.Helper()
	r := &soakReading{report: filepath.Join(t.TempDir(), "report"), done: make(chan error, 1)}
	r.cmd = exec.Command(os.Args[0], "-test.run=^TestSoakReader$") //nolint:gosec,noctx // ourselves; ended below
	r.cmd.Env = append(os.Environ(), "SOAK_ROOT="+root, "SOAK_REPORT="+r.report,
		fmt.Sprintf("SOAK_FILES=%d", files), fmt.Sprintf("SOAK_SEED=%d", seed))
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdin = stdin
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }() // ends with the process; end waits for it
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

// end has the reader finish and returns what it has seen.
func (r *soakReading) end(t *testing.T) soakReport {
	t.Helper()
	_ = r.stdin.Close()
	select {
	case err := <-r.done:
		if err != nil {
			t.Fatalf("reader: %v\n%s", err, r.output.String())
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("a reader is stuck")
	}
	data, err := os.ReadFile(r.report)
	if err != nil {
		t.Fatal(err)
	}
	var report soakReport
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	return report
}
