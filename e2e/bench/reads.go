package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/node"
)

// Reading is how a container's root file system is read, unpacked or attached.
type Reading struct {
	Image string
	Way   compare.Way
	// Whole is from the begin of the pull until every byte of every file was read.
	Whole time.Duration
	Bytes int64 // of all files
	// Walk is a look at every name and its metadata, warm.
	Walk Durations
	// The largest file, which has so many bytes: read from begin to end, and so many
	// random 4 KiB of it; from the page cache, and with an empty page cache from what
	// is on the node.
	File                                 int64
	WarmSequential, WarmRandom           Durations
	ColdSequential, ColdRandom           Durations
	RandomReads, ColdRandomReads, Passes int
}

const (
	readPasses      = 5
	warmRandomReads = 20000
	coldRandomReads = 1000
	randomSize      = 4 << 10
)

// measureReads reads each image's files, first with containerd alone, then through
// Referee, over the first link.
func measureReads(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report, o options) error {
	l := report.Links[0]
	for _, name := range o.images {
		image, err := bed.Publish(ctx, name)
		if err != nil {
			return err
		}
		for _, way := range []compare.Way{compare.Ordinary, compare.Lazy} {
			if err := bed.Chill(ctx); err != nil {
				return err
			}
			reading := Reading{Image: name, Way: way, RandomReads: warmRandomReads, ColdRandomReads: coldRandomReads, Passes: readPasses}
			began := time.Now()
			_, err := bed.Run(ctx, way, image, l, func(container *node.Container, _ int) error {
				return reading.measure(bed.Node.RootFS(container), began)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(progress, "reads of %s, %s: all of %.1f MB in %.2f s\n", name, way, float64(reading.Bytes)/1e6, reading.Whole.Seconds())
			report.Reads = append(report.Reads, reading)
		}
	}
	return nil
}

func (r *Reading) measure(root string, began time.Time) error {
	largest, err := r.readAll(root)
	if err != nil {
		return fmt.Errorf("read every file of %s: %w", r.Image, err)
	}
	r.Whole = time.Since(began)
	file, err := os.Open(largest)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // read only
	for range r.Passes {
		begin := time.Now()
		if err := filepath.WalkDir(root, look); err != nil {
			return fmt.Errorf("walk %s: %w", r.Image, err)
		}
		r.Walk = append(r.Walk, time.Since(begin))
		if err := r.pass(file, &r.WarmSequential, &r.WarmRandom, r.RandomReads, func() error { return nil }); err != nil {
			return err
		}
	}
	for range r.Passes {
		if err := r.pass(file, &r.ColdSequential, &r.ColdRandom, r.ColdRandomReads, compare.DropPageCache); err != nil {
			return err
		}
	}
	return nil
}

// readAll reads every file below root and returns the largest.
func (r *Reading) readAll(root string) (largest string, err error) {
	buffer := make([]byte, 1<<20)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file}, buffer)
		r.Bytes += n
		if n > r.File {
			r.File, largest = n, path
		}
		return errors.Join(err, file.Close())
	})
	return largest, err
}

func look(_ string, entry fs.DirEntry, err error) error {
	if err == nil {
		_, err = entry.Info()
	}
	return err
}

// pass reads the file from begin to end, and at random places, after prepare each.
func (r *Reading) pass(file *os.File, sequential, random *Durations, reads int, prepare func() error) error {
	buffer := make([]byte, 128<<10)
	if err := errors.Join(prepare(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_NORMAL)); err != nil {
		return err
	}
	begin := time.Now()
	for off := int64(0); off < r.File; off += int64(len(buffer)) {
		if _, err := file.ReadAt(buffer, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	*sequential = append(*sequential, time.Since(begin))
	if err := errors.Join(prepare(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM)); err != nil {
		return err
	}
	places := rand.New(rand.NewPCG(1, uint64(reads))) //nolint:gosec // the same for both ways
	begin = time.Now()
	for range reads {
		if _, err := file.ReadAt(buffer[:randomSize], places.Int64N(max(r.File-randomSize, 1))); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	*random = append(*random, time.Since(begin))
	return nil
}

// comparison is one way of reading, unpacked and lazy.
type comparison struct {
	name, long  string // of a bar, and of a line of the table
	plain, lazy Durations
	speed       float64 // aim: at least so fast; 0: times says
	times       float64 // aim: at most so long
}

// against compares a lazy reading with that of the same image unpacked.
func (r *Reading) against(plain *Reading) []comparison {
	return []comparison{
		{"every byte, with pull", fmt.Sprintf("pull and read all of %.0f MB", float64(r.Bytes)/1e6), Durations{plain.Whole}, Durations{r.Whole}, 0, 1.1},
		{"walk, warm", "walk all names, warm", plain.Walk, r.Walk, 0, 1.05},
		{"sequential, warm", fmt.Sprintf("largest file, %.0f MB, warm", float64(r.File)/1e6), plain.WarmSequential, r.WarmSequential, 0.97, 0},
		{"random, warm", fmt.Sprintf("%d random 4 KiB, warm", r.RandomReads), plain.WarmRandom, r.WarmRandom, 0.97, 0},
		{"sequential, cold", "largest file, page cache empty", plain.ColdSequential, r.ColdSequential, 0.85, 0},
		{"random, cold", fmt.Sprintf("%d random 4 KiB, page cache empty", r.ColdRandomReads), plain.ColdRandom, r.ColdRandom, 0.70, 0},
	}
}

func (r *Report) writeReads(out io.Writer) {
	if len(r.Reads) == 0 {
		return
	}
	row, flush := table(out, fmt.Sprintf("Reading the root file system, %s (the link), lazy against unpacked: medians of %d", r.Links[0].Name, r.Reads[0].Passes),
		"what", "image", "unpacked", "lazy", "lazy is", "aim", "")
	defer flush()
	for i := 0; i+1 < len(r.Reads); i += 2 {
		plain, lazy := &r.Reads[i], &r.Reads[i+1]
		for _, c := range lazy.against(plain) {
			plain, lazy := c.plain.median(), c.lazy.median()
			times := lazy.Seconds() / plain.Seconds()
			is, aim, met := fmt.Sprintf("%.2fx as long", times), fmt.Sprintf("<= %.2fx", c.times), times <= c.times
			if c.speed > 0 {
				is, aim, met = fmt.Sprintf("%.0f %% as fast", 100/times), fmt.Sprintf(">= %.0f %%", 100*c.speed), 1/times >= c.speed
			}
			row(c.long, r.Reads[i].Image, seconds(plain), seconds(lazy), is, aim, verdict(met))
		}
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.4f s", d.Seconds()) }
