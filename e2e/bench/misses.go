package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/internal/regtest"
)

// Misses are reads of 4 KiB that nothing on the node could answer, one after the
// other.
type Misses struct {
	Link     string
	Took     Durations
	Requests int
}

const (
	missReads = 100
	// missDistance is between two reads: more than a miss fetches along with it
	// (256 KiB, and up to 2 MiB behind a lone one).
	missDistance = 4 << 20

	aimMissMedian = 1.2 // round trips
	aimMissTail   = 3.0 // round trips, 99th percentile
)

// measureMisses attaches an image with one large file of random bytes and reads
// pieces of it far from each other, in random order.
func measureMisses(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report) error {
	image, err := bed.PublishSynthetic(ctx, "misses", regtest.ImageSpec{Layers: 1, LayerSize: missReads * missDistance, Seed: 7})
	if err != nil {
		return err
	}
	for _, l := range report.Links {
		if err := bed.Chill(ctx, compare.Lazy); err != nil {
			return err
		}
		if err := bed.Pull(ctx, image, l); err != nil {
			return err
		}
		misses := Misses{Link: l.Name}
		bed.Registry.ResetRequests()
		if err := misses.read(bed.VolumesDir()); err != nil {
			return errors.Join(fmt.Errorf("read over link %s: %w", l.Name, err), bed.Remove(ctx, l, image))
		}
		misses.Requests = len(bed.Registry.Requests())
		if err := bed.Remove(ctx, l, image); err != nil {
			return err
		}
		fmt.Fprintf(progress, "misses over %s: median %s\n", l.Name, misses.Took.median().Round(time.Microsecond))
		report.Misses = append(report.Misses, misses)
	}
	return nil
}

// read reads the one file of the one volume that is attached.
func (m *Misses) read(volumes string) error {
	files, err := filepath.Glob(filepath.Join(volumes, "*", "root", "layer0"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("find the attached file: %d, %w", len(files), err)
	}
	file, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer file.Close()
	// The kernel is not to read ahead: one read, one miss.
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return fmt.Errorf("advise %s: %w", files[0], err)
	}
	buffer := make([]byte, randomSize)
	for _, i := range rand.Perm(missReads) { //nolint:gosec // an order, not a secret
		began := time.Now()
		if _, err := file.ReadAt(buffer, int64(i)*missDistance); err != nil {
			return err
		}
		m.Took = append(m.Took, time.Since(began))
	}
	return nil
}

func (r *Report) writeMisses(out io.Writer) {
	if len(r.Misses) == 0 {
		return
	}
	row, flush := table(out, "Reads of 4 KiB that only the registry can answer, one after the other, each far from the others (ms)",
		"link", "n", "p50", "p99", "round trips p50", "p99", "requests", "aim", "")
	defer flush()
	for _, m := range r.Misses {
		for _, l := range r.Links {
			if l.Name != m.Link {
				continue
			}
			trips := func(q float64) float64 { return quantile(m.Took, q).Seconds() / l.Measured.RTT.Seconds() }
			row(m.Link, fmt.Sprint(len(m.Took)), millis(m.Took), fmt.Sprintf("%.1f", quantile(m.Took, 0.99).Seconds()*1000),
				fmt.Sprintf("%.2f", trips(0.5)), fmt.Sprintf("%.2f", trips(0.99)), fmt.Sprint(m.Requests),
				fmt.Sprintf("<= %.1f, %.0f", aimMissMedian, aimMissTail), verdict(trips(0.5) <= aimMissMedian && trips(0.99) <= aimMissTail))
		}
	}
}
