package main

import (
	"fmt"
	"io"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
)

func (r *Report) writePulls(out io.Writer) {
	if len(r.Pulls) == 0 {
		return
	}
	row, flush := table(out, "Pull and start, seconds: median (least-greatest)",
		"image", "link", "variant", "n", "PullImage", "ready", "sooner", "MB until ready", "of image")
	for _, image := range r.Images {
		for _, l := range r.Links {
			base := r.pick(image, l, ordinary)
			for _, recipe := range recipes {
				variant := recipe.variant
				p := r.pick(image, l, variant)
				if len(p.pull) == 0 {
					continue
				}
				bytes := quantile(p.bytes, 0.5)
				row(image.Name, l.Name, string(variant), fmt.Sprint(len(p.pull)), p.pull.text(), p.ready.text(),
					fmt.Sprintf("%.2fx", base.ready.median().Seconds()/p.ready.median().Seconds()),
					fmt.Sprintf("%.1f", float64(bytes)/1e6), fmt.Sprintf("%.1f %%", 100*float64(bytes)/float64(image.Size)))
			}
		}
	}
	flush()
	r.writeForms(out)
	r.writePullAims(out)
	r.writeRoundTrips(out)
	r.writeSteps(out)
}

// pulled are the samples of one variant.
type pulled struct {
	pull, ready Durations
	bytes       []int64
	samples     []Sample
}

func (r *Report) pick(image compare.Image, l compare.Link, variant Variant) (p pulled) {
	for _, s := range r.Pulls {
		if s.Image == image.Name && s.Link == l.Name && s.Variant == variant {
			p.pull, p.ready, p.bytes = append(p.pull, s.Pull), append(p.ready, s.Ready), append(p.bytes, s.Bytes)
			p.samples = append(p.samples, s)
		}
	}
	return p
}

// writeForms shows what the forms that are pulled weigh, and what making them took:
// pulling the original from the registry, converting, and pushing, against what
// nobody gets around, unpacking the layers and hashing what is in them.
func (r *Report) writeForms(out io.Writer) {
	row, flush := table(out, "Forms of the images, and `referee convert` against `gzip -dc | sha256sum` of the layers",
		"image", "form", "layers", "MB", "of the original", "made in, s", "MB of tar/s", "of that speed")
	defer flush()
	for _, image := range r.Images {
		line := func(form string, made compare.Image) {
			cells := []string{
				image.Name, form, fmt.Sprint(made.Layers), fmt.Sprintf("%.1f", float64(made.LazySize)/1e6),
				fmt.Sprintf("%.1f %%", 100*float64(made.LazySize)/float64(image.Size)), "-", "-", "-",
			}
			if made.Converted > 0 {
				cells[5] = fmt.Sprintf("%.1f", made.Converted.Seconds())
				cells[6] = fmt.Sprintf("%.0f", float64(image.Unpacked.Bytes)/1e6/made.Converted.Seconds())
				cells[7] = fmt.Sprintf("%.2fx", image.Unpacked.Took.Seconds()/made.Converted.Seconds())
			}
			row(cells...)
		}
		original := image
		original.LazySize, original.Converted = image.Size, 0
		line("original", original)
		line("overlaybd", image)
		for _, form := range r.Forms {
			if form.Name == image.Name {
				line(form.FormName(), form)
			}
		}
	}
}

// writeRoundTrips derives from two links how many round trips a lazy PullImage
// waits for, one after the other; slow start of TCP counts as such.
func (r *Report) writeRoundTrips(out io.Writer) {
	if len(r.Links) < 2 {
		return
	}
	near, far := r.Links[0], r.Links[1]
	row, flush := table(out, "Round trips one after the other in a PullImage, from the two links' medians",
		"image", "variant", "round trips", "and fixed, s")
	defer flush()
	for _, image := range r.Images {
		for _, recipe := range recipes {
			if recipe.way == compare.Ordinary || recipe.way == compare.Tuned {
				continue // they fetch layers
			}
			short, long := r.pick(image, near, recipe.variant).pull, r.pick(image, far, recipe.variant).pull
			if len(short) == 0 || len(long) == 0 {
				continue
			}
			trips := float64(long.median()-short.median()) / float64(far.Shape.RTT-near.Shape.RTT)
			fixed := short.median().Seconds() - trips*near.Shape.RTT.Seconds()
			row(image.Name, string(recipe.variant), fmt.Sprintf("%.1f", trips), fmt.Sprintf("%.3f", fixed))
		}
	}
}

func (r *Report) writeSteps(out io.Writer) {
	row, flush := table(out, "Where a lazy PullImage spends its time, by Referee's own clock (median ms)",
		"image", "link", "variant", "present", "negotiate", "open", "mount", "graft", "forward", "KB before forwarding")
	defer flush()
	for _, image := range r.Images {
		for _, l := range r.Links {
			for _, variant := range lazyVariants {
				cells := []string{image.Name, l.Name, string(variant)}
				if len(r.pick(image, l, variant).samples) == 0 {
					continue
				}
				var fetched []int64
				steps := make([]Durations, 6)
				for _, s := range r.pick(image, l, variant).samples {
					fetched = append(fetched, s.Fetched)
					for i, step := range []time.Duration{
						s.Steps.Present.Duration(), s.Steps.Negotiate.Duration(), s.Steps.Open.Duration(),
						s.Steps.Mount.Duration(), s.Steps.Graft.Duration(), s.Steps.Forward.Duration(),
					} {
						steps[i] = append(steps[i], step)
					}
				}
				for _, step := range steps {
					cells = append(cells, fmt.Sprint(step.median().Milliseconds()))
				}
				row(append(cells, fmt.Sprint(quantile(fetched, 0.5)/1000))...)
			}
		}
	}
}
