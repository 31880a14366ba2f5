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
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/node"
)

// Reading is how a container's root file system is read, unpacked or attached.
type Reading struct {
	Image   string
	Variant Variant
	// Whole is from the begin of the pull until every byte of every file was read; 0
	// of a settled image, as CPU.
	Whole time.Duration
	Bytes int64 // of all files
	// CPU is what the node's daemons and their children used meanwhile.
	CPU time.Duration
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

// readers are the recipes whose mounts are read, that of unpacked layers first;
// of those that differ only in how soon they are ready, one.
func readers(recipes []recipe) []recipe {
	return slices.DeleteFunc(slices.Clone(recipes), func(r recipe) bool { return r.way == compare.Tuned || r.warm || r.form == compare.EStargzRecorded })
}

// measureReads reads each image's files as containerd alone unpacks them, and then
// as every other way mounts them, over the first link.
func measureReads(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report, o options) error {
	recipes, err := chosen(ctx, bed, o)
	if err != nil {
		return err
	}
	for _, name := range o.images {
		forms, err := publish(ctx, progress, bed, report, name, recipes, o)
		if err != nil {
			return err
		}
		for _, r := range readers(recipes) {
			image, ok := forms[r.form]
			if !ok {
				continue
			}
			reading, err := readOne(ctx, bed, r, image, report.Links[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(progress, "reads of %s, %s: all of %.1f MB in %.2f s\n", name, r.variant, float64(reading.Bytes)/1e6, reading.Whole.Seconds())
			report.Reads = append(report.Reads, *reading)
			if r.variant != lazyCold {
				continue
			}
			if reading, err = readSettled(ctx, bed, image, report.Links[0]); err != nil {
				return err
			}
			report.Reads = append(report.Reads, *reading)
		}
	}
	return nil
}

// readSettled pulls an image, waits until it has settled, and reads its files in a
// container that is made after that.
func readSettled(ctx context.Context, bed *compare.Bed, image compare.Image, l compare.Link) (*Reading, error) {
	if err := bed.Chill(ctx, compare.Lazy); err != nil {
		return nil, err
	}
	reading := newReading(image, lazySettled)
	err := bed.Settled(ctx, image, l, func(container *node.Container) error {
		root := bed.Node.RootFS(container)
		largest, err := reading.readAll(root)
		if err != nil {
			return fmt.Errorf("read every file of %s: %w", image.Name, err)
		}
		return reading.measure(root, largest)
	})
	return reading, err
}

func newReading(image compare.Image, variant Variant) *Reading {
	return &Reading{Image: image.Name, Variant: variant, RandomReads: warmRandomReads, ColdRandomReads: coldRandomReads, Passes: readPasses}
}

// readOne pulls an image in one way, starts it, and reads its files.
func readOne(ctx context.Context, bed *compare.Bed, r recipe, image compare.Image, l compare.Link) (*Reading, error) {
	if err := bed.Chill(ctx, r.way); err != nil {
		return nil, err
	}
	reading := newReading(image, r.variant)
	n := bed.NodeOf(r.way)
	before, err := nodeCPU(n.Dir())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	_, err = bed.Run(ctx, r.way, image, l, func(container *node.Container, _ int) error {
		root := n.RootFS(container)
		largest, err := reading.readAll(root)
		if err != nil {
			return fmt.Errorf("read every file of %s: %w", image.Name, err)
		}
		reading.Whole = time.Since(began)
		after, err := nodeCPU(n.Dir())
		if err != nil {
			return err
		}
		reading.CPU = after - before
		return reading.measure(root, largest)
	})
	return reading, err
}

// measure reads the names below root, and the largest file, again and again.
func (r *Reading) measure(root, largest string) error {
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
