package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// comparison is one way of reading, of unpacked layers and of a mount.
type comparison struct {
	name, long  string // of a bar, and of a line of the table
	plain, lazy Durations
	speed       float64 // aim: at least so fast; 0: times says
	times       float64 // aim: at most so long
}

// against compares the reading of a mount with that of the same image unpacked.
func (r *Reading) against(plain *Reading) []comparison {
	var all []comparison
	if r.Whole > 0 {
		all = append(all, comparison{"every byte, with pull", fmt.Sprintf("pull and read all of %.0f MB", float64(r.Bytes)/1e6), Durations{plain.Whole}, Durations{r.Whole}, 0, 1.1})
	}
	return append(all, []comparison{
		{"walk, warm", "walk all names, warm", plain.Walk, r.Walk, 0, 1.05},
		{"sequential, warm", fmt.Sprintf("largest file, %.0f MB, warm", float64(r.File)/1e6), plain.WarmSequential, r.WarmSequential, 0.97, 0},
		{"random, warm", fmt.Sprintf("%d random 4 KiB, warm", r.RandomReads), plain.WarmRandom, r.WarmRandom, 0.97, 0},
		{"sequential, cold", "largest file, page cache empty", plain.ColdSequential, r.ColdSequential, 0.85, 0},
		{"random, cold", fmt.Sprintf("%d random 4 KiB, page cache empty", r.ColdRandomReads), plain.ColdRandom, r.ColdRandom, 0.70, 0},
	}...)
}

// pairs calls do with each reading of a mount and that of the unpacked image,
// which stands before it.
func (r *Report) pairs(do func(plain, lazy *Reading)) {
	plain := 0
	for i := range r.Reads {
		if r.Reads[i].Variant == ordinary {
			plain = i
			continue
		}
		do(&r.Reads[plain], &r.Reads[i])
	}
}

func (r *Report) writeReads(out io.Writer) {
	if len(r.Reads) == 0 {
		return
	}
	row, flush := table(out, fmt.Sprintf("Reading the root file system, %s (the link), mounted against unpacked: medians of %d", r.Links[0].Name, r.Reads[0].Passes),
		"what", "image", "variant", "unpacked", "mounted", "mounted is", "aim", "")
	r.pairs(func(plain, lazy *Reading) {
		for _, c := range lazy.against(plain) {
			plain, mounted := c.plain.median(), c.lazy.median()
			times := mounted.Seconds() / plain.Seconds()
			is, aim, met := fmt.Sprintf("%.2fx as long", times), fmt.Sprintf("<= %.2fx", c.times), times <= c.times
			if c.speed > 0 {
				is, aim, met = fmt.Sprintf("%.0f %% as fast", 100/times), fmt.Sprintf(">= %.0f %%", 100*c.speed), 1/times >= c.speed
			}
			of := verdict(met)
			if !slices.Contains(lazyVariants, lazy.Variant) {
				aim, of = "", "" // nothing is aimed at for others
			}
			row(c.long, lazy.Image, string(lazy.Variant), seconds(plain), seconds(mounted), is, aim, of)
		}
	})
	flush()
	row, flush = table(out, "CPU time of the node's daemons for a pull, a start and reading every byte",
		"image", "variant", "MB", "CPU, s", "ms for each MB", "of unpacked")
	defer flush()
	var unpacked float64
	for i := range r.Reads {
		reading := &r.Reads[i]
		if reading.Whole == 0 {
			continue
		}
		each := reading.perMB()
		if reading.Variant == ordinary {
			unpacked = each
		}
		row(reading.Image, string(reading.Variant), fmt.Sprintf("%.0f", float64(reading.Bytes)/1e6), fmt.Sprintf("%.2f", reading.CPU.Seconds()),
			fmt.Sprintf("%.2f", each), fmt.Sprintf("%.2fx", each/unpacked))
	}
}

// perMB is what the daemons used of the CPU for a megabyte that was read, in ms.
func (r *Reading) perMB() float64 {
	return r.CPU.Seconds() * 1e9 / float64(max(r.Bytes, 1))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.4f s", d.Seconds()) }
