package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/fallback"
)

// Variant is a way to pull in a certain state of the daemon.
type Variant string

// The variants. containerd opens new connections for every pull, so it has no
// warm variant.
const (
	ordinary Variant = "ordinary"
	tuned    Variant = "tuned"      // containerd fetches each layer in parallel pieces
	lazyCold Variant = "lazy, cold" // the daemon has just started
	lazyWarm Variant = "lazy, warm" // it has pulled another image from that registry a moment ago
	// lazyTraced is lazyWarm with the trace of one earlier start, which is not measured.
	lazyTraced Variant = "lazy, traced"
)

// variants are all, in the order of the tables; the first is what the others are
// compared with.
var variants = []Variant{ordinary, tuned, lazyCold, lazyWarm, lazyTraced}

// lazyVariants are those of them that go through Referee.
var lazyVariants = []Variant{lazyCold, lazyWarm, lazyTraced}

// Sample is one pull and start.
type Sample struct {
	Image, Link string
	Variant     Variant
	Pull, Ready time.Duration
	Bytes       int64 // over the link until ready
	Requests    int
	Fetched     int64          // bytes of blobs before the pull was forwarded
	Steps       fallback.Steps // Referee's own clock
}

// measurePulls runs every variant of every image over every link n times, each
// from cold caches. Every round has each once, in random order of its own. After
// the first round no pull begins once o.within has passed.
func measurePulls(ctx context.Context, progress io.Writer, bed *compare.Bed, other compare.Image, report *Report, o options) error {
	type job struct {
		image   compare.Image
		link    compare.Link
		variant Variant
	}
	var round, jobs []job
	for _, name := range o.images {
		image, err := bed.Publish(ctx, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(progress, "image %s: %d layers, %.1f MB; converted in %s\n", name, image.Layers, float64(image.Size)/1e6, image.Converted.Round(100*time.Millisecond))
		report.Images = append(report.Images, image)
		for _, l := range report.Links {
			for _, variant := range variants {
				round = append(round, job{image, l, variant})
			}
		}
	}
	random := rand.New(rand.NewPCG(uint64(o.seed), 0)) //nolint:gosec // an order, not a secret
	for range o.repetitions {
		random.Shuffle(len(round), func(i, k int) { round[i], round[k] = round[k], round[i] })
		jobs = append(jobs, round...)
	}
	began := time.Now()
	for i, j := range jobs {
		if o.within > 0 && i >= len(round) && time.Since(began) > o.within {
			fmt.Fprintf(progress, "%s have passed: leaving out %d pulls\n", o.within, len(jobs)-i)
			return nil
		}
		sample, err := measurePull(ctx, bed, other, j.image, j.link, j.variant)
		if err != nil {
			return err
		}
		fmt.Fprintf(progress, "%3d of %d: %-7s %-7s %-12s pull %6.3f s, ready %6.3f s, %6.1f MB\n", i+1, len(jobs),
			j.image.Name, j.link.Name, j.variant, sample.Pull.Seconds(), sample.Ready.Seconds(), float64(sample.Bytes)/1e6)
		report.Pulls = append(report.Pulls, sample)
	}
	return nil
}

func measurePull(ctx context.Context, bed *compare.Bed, other, image compare.Image, l compare.Link, variant Variant) (Sample, error) {
	sample := Sample{Image: image.Name, Link: l.Name, Variant: variant}
	way := compare.Lazy
	switch variant {
	case ordinary:
		way = compare.Ordinary
	case tuned:
		way = compare.Tuned
	case lazyCold, lazyWarm, lazyTraced:
	}
	if err := bed.Chill(ctx); err != nil {
		return sample, err
	}
	if variant == lazyTraced {
		if _, err := bed.Run(ctx, way, image, l, nil); err != nil { // recorded, as the image goes
			return sample, err
		}
		if err := bed.ChillTraced(ctx); err != nil {
			return sample, err
		}
	}
	if variant == lazyWarm || variant == lazyTraced {
		if err := bed.Warm(ctx, other, l); err != nil {
			return sample, err
		}
	}
	result, err := bed.Run(ctx, way, image, l, nil)
	if err != nil {
		return sample, err
	}
	sample.Pull, sample.Ready = result.Pull, result.Ready
	sample.Bytes, sample.Requests = result.Bytes, len(result.Requests)
	if result.Entry != nil {
		sample.Fetched, sample.Steps = result.Entry.Fetched, result.Entry.Steps
	}
	return sample, nil
}
