package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
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
	r.writeMisses(&text)
	r.writeCrowds(&text)
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
