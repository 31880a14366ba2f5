package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
)

// What was aimed at.
const (
	aimAdded      = 100 * time.Microsecond // to a proxied call
	aimRoundTrips = 5                      // of a lazy PullImage, connections warm …
	aimFixed      = 50 * time.Millisecond  // … plus this …
	aimLayer      = 6 * time.Millisecond   // … and this for each layer
	aimReady      = 3.0                    // times sooner, for large images over the slow link
	aimTraced     = 5.0                    // than the tuned ordinary way, with the trace of an earlier start
	aimSmall      = 1.05                   // times as long as the ordinary way at most, for small images
	smallImage    = 60 << 20
	aimBytes      = 0.15 // of the image over the link until ready
	largeImage    = 300 << 20
	aimBase       = 30 << 20 // bytes of memory …
	aimImage      = 1 << 20  // … and for each lazy image
)

func (r *Report) write(out io.Writer) error {
	var text strings.Builder
	m := r.Machine
	fmt.Fprintf(&text, "%s, %d CPUs, %d MiB, kernel %s, containerd %s, load %s at the start, %s\n",
		m.CPU, m.CPUs, m.MemoryMiB, m.Kernel, cmp.Or(m.Containerd, "not started"), m.Load, m.Time.Format(time.DateOnly))
	for _, l := range r.Links {
		fmt.Fprintf(&text, "link %s: %s; measured: %s (%s)\n", l.Name, l.Shape, l.Measured, l.Kind)
	}
	r.writeFront(&text)
	r.writeNegotiation(&text)
	r.writePulls(&text)
	r.writeReads(&text)
	r.writeMemory(&text)
	_, err := io.WriteString(out, text.String())
	return err
}

func table(out io.Writer, title string, header ...string) (row func(cells ...string), flush func()) {
	fmt.Fprintf(out, "\n%s\n", title)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row = func(cells ...string) { fmt.Fprintln(t, "  "+strings.Join(cells, "\t")) }
	row(header...)
	return row, func() { _ = t.Flush() } // a strings.Builder takes everything
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "NOT MET"
}

func (r *Report) writeFront(out io.Writer) {
	if len(r.Front) == 0 {
		return
	}
	row, flush := table(out, "What the proxied socket adds to a call (microseconds)",
		"call", "n", "direct p50", "p99", "proxied p50", "p99", "added p50", "aim", "")
	defer flush()
	for _, c := range r.Front {
		added := c.Proxied.median() - c.Direct.median()
		row(c.Name, fmt.Sprint(len(c.Direct)), micros(c.Direct.median()), micros(quantile(c.Direct, 0.99)),
			micros(c.Proxied.median()), micros(quantile(c.Proxied, 0.99)), micros(added), "<= "+micros(aimAdded), verdict(added <= aimAdded))
	}
}

func micros(d time.Duration) string { return fmt.Sprint(d.Microseconds()) }

func (r *Report) writePulls(out io.Writer) {
	if len(r.Pulls) == 0 {
		return
	}
	row, flush := table(out, "Pull and start, seconds: median (least-greatest)",
		"image", "link", "variant", "n", "PullImage", "ready", "sooner", "MB until ready", "of image")
	for _, image := range r.Images {
		for _, l := range r.Links {
			base := r.pick(image, l, ordinary)
			for _, variant := range variants {
				p := r.pick(image, l, variant)
				bytes := quantile(p.bytes, 0.5)
				row(image.Name, l.Name, string(variant), fmt.Sprint(len(p.pull)), p.pull.text(), p.ready.text(),
					fmt.Sprintf("%.2fx", base.ready.median().Seconds()/p.ready.median().Seconds()),
					fmt.Sprintf("%.1f", float64(bytes)/1e6), fmt.Sprintf("%.1f %%", 100*float64(bytes)/float64(image.Size)))
			}
		}
	}
	flush()
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

func (r *Report) writePullAims(out io.Writer) {
	row, flush := table(out, "Aims", "aim", "image", "link", "limit", "measured", "")
	defer flush()
	for _, image := range r.Images {
		for _, l := range r.Links {
			warm := r.pick(image, l, lazyWarm)
			limit := aimRoundTrips*l.Shape.RTT + aimFixed + time.Duration(image.Layers)*aimLayer
			row("lazy PullImage, warm: 5 round trips + 50 ms + 6 ms a layer", image.Name, l.Name,
				fmt.Sprintf("%.3f s", limit.Seconds()), fmt.Sprintf("%.3f s", warm.pull.median().Seconds()), verdict(warm.pull.median() <= limit))
		}
	}
	for _, image := range r.Images {
		if image.Size < largeImage {
			continue
		}
		l := r.Links[len(r.Links)-1]
		for _, c := range []struct {
			variant, base Variant
			aim           float64
		}{{lazyWarm, ordinary, aimReady}, {lazyTraced, tuned, aimTraced}} {
			sooner := r.pick(image, l, c.base).ready.median().Seconds() / r.pick(image, l, c.variant).ready.median().Seconds()
			row(fmt.Sprintf("ready sooner, %s against %s", c.variant, c.base), image.Name, l.Name,
				fmt.Sprintf(">= %.0fx", c.aim), fmt.Sprintf("%.2fx", sooner), verdict(sooner >= c.aim))
		}
		share := float64(quantile(r.pick(image, l, lazyTraced).bytes, 0.5)) / float64(image.Size)
		row("bytes until ready, "+string(lazyTraced), image.Name, l.Name, fmt.Sprintf("<= %.0f %%", 100*aimBytes), fmt.Sprintf("%.1f %%", 100*share), verdict(share <= aimBytes))
	}
	for _, image := range r.Images {
		if image.Size > smallImage {
			continue
		}
		for _, l := range r.Links {
			times := r.pick(image, l, lazyWarm).ready.median().Seconds() / r.pick(image, l, ordinary).ready.median().Seconds()
			row("a small image forced to be lazy, against ordinary", image.Name, l.Name, fmt.Sprintf("<= %.2fx", aimSmall), fmt.Sprintf("%.2fx", times), verdict(times <= aimSmall))
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
	row, flush := table(out, "Round trips one after the other in a lazy PullImage, from the two links' medians",
		"image", "variant", "round trips", "and fixed, s")
	defer flush()
	for _, image := range r.Images {
		for _, variant := range lazyVariants {
			short, long := r.pick(image, near, variant).pull.median(), r.pick(image, far, variant).pull.median()
			trips := float64(long-short) / float64(far.Shape.RTT-near.Shape.RTT)
			fixed := short.Seconds() - trips*near.Shape.RTT.Seconds()
			row(image.Name, string(variant), fmt.Sprintf("%.1f", trips), fmt.Sprintf("%.3f", fixed))
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

func (r *Report) writeMemory(out io.Writer) {
	if len(r.Memory) == 0 {
		return
	}
	row, flush := table(out, "Memory (MiB)",
		"lazy images", "daemon, resident", "all processes, proportional", "processes", "aim", "")
	defer flush()
	for _, m := range r.Memory {
		aim := int64(aimBase + m.Images*aimImage)
		row(fmt.Sprint(m.Images), fmt.Sprintf("%.1f", mib(m.Daemon)), fmt.Sprintf("%.1f", mib(m.PSS)), fmt.Sprint(m.Processes),
			fmt.Sprintf("<= %.0f", mib(aim)), verdict(m.PSS <= aim))
	}
}
