package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/fallback"
)

// Variant names a way to pull in a certain state of the daemon that does it.
type Variant string

// The variants. containerd opens new connections for every pull, so it has no
// warm variant.
const (
	ordinary Variant = "ordinary"
	tuned    Variant = "tuned"  // containerd fetches each layer in parallel pieces
	stargz   Variant = "stargz" // stargz-snapshotter, just started
	soci     Variant = "soci"   // soci-snapshotter, just started
	// stargzRecorded is stargz of an image that was made with the record of one start.
	stargzRecorded Variant = "stargz, recorded"
	lazyCold       Variant = "lazy, cold" // the daemon has just started
	lazyWarm       Variant = "lazy, warm" // it has pulled another image from that registry a moment ago
	// lazyTraced is lazyWarm with the trace of one earlier start, which is not measured.
	lazyTraced Variant = "lazy, traced"
	// The same forms as the peers', through Referee, which has just started.
	lazyStargz Variant = "lazy, estargz"
	lazySOCI   Variant = "lazy, soci"
	// Forms that `referee convert` makes, through Referee, which has just started.
	lazyZstd  Variant = "lazy, zstd:chunked"
	lazyEROFS Variant = "lazy, erofs"
	lazyDisk  Variant = "lazy, disk"
	// lazySettled is read, not pulled: the form is whole, and a local file.
	lazySettled Variant = "lazy, settled"
)

// recipe is how a variant is made.
type recipe struct {
	variant      Variant
	way          compare.Way
	form         compare.Form
	warm, traced bool
	reader       string // of Referee; "": overlaybd's
}

// recipes are all, in the order of the tables; the first is what the others are
// compared with.
var recipes = []recipe{
	{variant: ordinary, way: compare.Ordinary, form: compare.Original},
	{variant: tuned, way: compare.Tuned, form: compare.Original},
	{variant: stargz, way: compare.Stargz, form: compare.EStargz},
	{variant: stargzRecorded, way: compare.Stargz, form: compare.EStargzRecorded},
	{variant: soci, way: compare.SOCI, form: compare.SOCIIndexed},
	{variant: lazyCold, way: compare.Lazy, form: compare.Original},
	{variant: lazyWarm, way: compare.Lazy, form: compare.Original, warm: true},
	{variant: lazyTraced, way: compare.Lazy, form: compare.Original, warm: true, traced: true},
	{variant: lazyStargz, way: compare.Lazy, form: compare.EStargz, reader: "estargz"},
	{variant: lazySOCI, way: compare.Lazy, form: compare.SOCIIndexed, reader: "soci"},
	{variant: lazyZstd, way: compare.Lazy, form: compare.ZstdChunked, reader: "zstdchunked"},
	{variant: lazyEROFS, way: compare.Lazy, form: compare.EROFS, reader: "erofs"},
	{variant: lazyDisk, way: compare.Lazy, form: compare.Disk, reader: "disk"},
}

func allVariants() string {
	names := make([]string, 0, len(recipes))
	for _, r := range recipes {
		names = append(names, string(r.variant))
	}
	return strings.Join(names, ";")
}

// lazyVariants are those that go through Referee.
var lazyVariants = []Variant{lazyCold, lazyWarm, lazyTraced, lazyStargz, lazySOCI, lazyZstd, lazyEROFS, lazyDisk, lazySettled}

// chosen are the recipes of the variants that were asked for and can be made.
func chosen(ctx context.Context, bed *compare.Bed, o options) ([]recipe, error) {
	var out []recipe
	for _, r := range recipes {
		if !slices.Contains(o.variants, string(r.variant)) {
			continue
		}
		if r.reader != "" {
			reads, err := bed.Reads(ctx, r.reader)
			if err != nil {
				return nil, err
			}
			if !reads {
				continue
			}
		}
		out = append(out, r)
	}
	return out, nil
}

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

// pull is one thing to do of a round.
type pull struct {
	recipe recipe
	image  compare.Image
	link   compare.Link
}

// measurePulls runs every variant of every image over every link n times, each
// from cold caches. Every round has each once, in random order of its own. After
// the first round no pull begins once o.within has passed.
func measurePulls(ctx context.Context, progress io.Writer, bed *compare.Bed, other compare.Image, report *Report, o options) error {
	round, err := planRound(ctx, progress, bed, report, o)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(o.seed), 0)) //nolint:gosec // an order, not a secret
	var jobs []pull
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
		sample, err := measurePull(ctx, bed, other, j)
		if err != nil {
			return err
		}
		fmt.Fprintf(progress, "%3d of %d: %-8s %-7s %-13s pull %6.3f s, ready %6.3f s, %6.1f MB\n", i+1, len(jobs),
			j.image.Name, j.link.Name, j.recipe.variant, sample.Pull.Seconds(), sample.Ready.Seconds(), float64(sample.Bytes)/1e6)
		report.Pulls = append(report.Pulls, sample)
	}
	return nil
}

// planRound publishes every image in every form that is needed.
func planRound(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report, o options) (round []pull, err error) {
	recipes, err := chosen(ctx, bed, o)
	if err != nil {
		return nil, err
	}
	for _, name := range o.images {
		forms, err := publish(ctx, progress, bed, report, name, recipes, o)
		if err != nil {
			return nil, err
		}
		for _, l := range report.Links {
			for _, r := range recipes {
				if image, ok := forms[r.form]; ok {
					round = append(round, pull{r, image, l})
				}
			}
		}
	}
	return round, nil
}

// publish makes an image available in the forms of the recipes; in those of Referee
// only the images that o names.
func publish(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report, name string, recipes []recipe, o options) (map[compare.Form]compare.Image, error) {
	original, err := bed.Publish(ctx, name)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "image %s: %d layers, %.1f MB; converted in %s\n", name, original.Layers, float64(original.Size)/1e6, original.Converted.Round(100*time.Millisecond))
	if original.Unpacked, err = bed.Unpack(ctx, name); err != nil {
		return nil, err
	}
	report.addImage(original)
	forms := map[compare.Form]compare.Image{compare.Original: original}
	for _, form := range compare.PeerForms() {
		wanted := func(r recipe) bool {
			return r.form == form || r.form == compare.EStargzRecorded && form == compare.EStargz // that is recorded
		}
		if !slices.ContainsFunc(recipes, wanted) {
			continue
		}
		made, err := bed.PublishForm(ctx, name, form, report.Links[0])
		if err != nil {
			return nil, err
		}
		forms[form] = made
		report.addForm(made)
	}
	for _, form := range compare.OwnForms() {
		if !slices.Contains(o.formats, name) || !slices.ContainsFunc(recipes, func(r recipe) bool { return r.form == form }) {
			continue
		}
		made, err := bed.PublishAlone(ctx, original, form)
		if err != nil {
			return nil, err
		}
		forms[form] = made
		report.addForm(made)
	}
	return forms, nil
}

func measurePull(ctx context.Context, bed *compare.Bed, other compare.Image, p pull) (Sample, error) {
	r, image, l := p.recipe, p.image, p.link
	sample := Sample{Image: image.Name, Link: l.Name, Variant: r.variant}
	if err := bed.Chill(ctx, r.way); err != nil {
		return sample, err
	}
	if r.traced {
		if _, err := bed.Run(ctx, r.way, image, l, nil); err != nil { // recorded, as the image goes
			return sample, err
		}
		if err := bed.ChillTraced(ctx); err != nil {
			return sample, err
		}
	}
	if r.warm {
		if err := bed.Warm(ctx, other, l); err != nil {
			return sample, err
		}
	}
	result, err := bed.Run(ctx, r.way, image, l, nil)
	if err != nil {
		return sample, err
	}
	sample.Pull, sample.Ready = result.Pull, result.Ready
	sample.Bytes, sample.Requests = result.Bytes, len(result.Requests)
	if result.Entry != nil {
		if r.reader != "" && result.Entry.Format != r.reader {
			return sample, fmt.Errorf("%s pull of %s used %s, expected %s", r.variant, image.Name, result.Entry.Format, r.reader)
		}
		sample.Fetched, sample.Steps = result.Entry.Fetched, result.Entry.Steps
	}
	return sample, nil
}
