// Command bench measures Referee, containerd alone and other projects'
// snapshotters, side by side in one run: pulls and starts over shaped links from
// cold caches, bytes fetched, reads of what was mounted, CPU time. Of Referee alone
// it measures what the proxied socket adds to a call, what negotiation adds to the
// requests of a pull, reads that only the registry can answer, many pulls at once,
// and the daemon's memory. Repetitions of all variants are interleaved in random
// order; medians are printed with their spread, and each aim with whether it was
// met. All single results go to a JSON file.
//
// It needs root and leaves nothing behind but that file and .cache.
//
// Goroutines: one for each of many pulls at once, waited for by their caller.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/link"
	"github.com/referee-cri/referee/internal/regtest"
)

// options are the flags.
type options struct {
	repetitions int
	calls       int
	plans       int
	images      []string
	formats     []string // images to pull in every form
	variants    []string
	parts       map[string]bool
	seed        int64
	file        string
	docs        string
	within      time.Duration
	command     string // that asks for the same
}

func main() {
	var o options
	var images, formats, parts, variants string
	flag.IntVar(&o.repetitions, "n", 5, "repetitions of each pull")
	flag.IntVar(&o.calls, "calls", 3000, "calls of each kind, direct and proxied")
	flag.IntVar(&o.plans, "plans", 15, "plans of each kind")
	flag.DurationVar(&o.within, "within", 0, "begin no pull after this time, but for the first repetition (0: unbounded)")
	flag.StringVar(&images, "images", "small,python", "images to pull: small, redis, nginx, node, postgres, python")
	flag.StringVar(&formats, "formats", "redis", "images, of these, to pull in all forms that Referee makes")
	flag.StringVar(&variants, "variants", allVariants(), "ways to pull, separated by semicolons; those whose form this Referee cannot read are left out")
	flag.StringVar(&parts, "parts", "front,negotiate,pulls,reads,memory,misses,crowds", "what to measure")
	flag.Int64Var(&o.seed, "seed", time.Now().UnixNano(), "of the order of repetitions")
	flag.StringVar(&o.file, "json", "", "file for every single result")
	flag.StringVar(&o.docs, "docs", "", "folder for benchmarks.md and its pictures")
	from := flag.String("from", "", "measure nothing: read what -json wrote")
	flag.Parse()
	o.command = fmt.Sprintf("go run ./e2e/bench -n %d -within %s -images %s -formats %s -parts %s", o.repetitions, o.within, images, formats, parts)
	if variants != allVariants() {
		o.command += fmt.Sprintf(" -variants %q", variants)
	}
	o.variants = strings.Split(variants, ";")
	o.images, o.formats = strings.Split(images, ","), strings.Split(formats, ",")
	o.parts = map[string]bool{}
	for part := range strings.SplitSeq(parts, ",") {
		o.parts[part] = true
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	report, err := measured(ctx, *from, o)
	stop()
	if report != nil { // also what there is of one that failed
		err = errors.Join(err, save(o.file, report))
	}
	if err == nil {
		err = errors.Join(report.write(os.Stdout), report.document(o.docs))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measured is the report of this run, or of the one that wrote the file from.
func measured(ctx context.Context, from string, o options) (*Report, error) {
	if from == "" {
		return bench(ctx, os.Stderr, o)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	report := &Report{}
	if err := json.Unmarshal(text, report); err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	return report, nil
}

// Report is everything that was measured.
type Report struct {
	Machine Machine
	Seed    int64
	Links   []compare.Link
	Images  []compare.Image
	Forms   []compare.Image `json:",omitempty"` // of those images, for other projects
	Front   []Call          `json:",omitempty"`
	Pulls   []Sample        `json:",omitempty"`
	Reads   []Reading       `json:",omitempty"`
	Memory  []Memory        `json:",omitempty"`
	Misses  []Misses        `json:",omitempty"`
	Crowds  []Crowd         `json:",omitempty"`
	Command string          // that measured it

	NegotiationLinks []compare.Link `json:",omitempty"`
	Negotiation      []Negotiation  `json:",omitempty"`
}

// addImage notes an image once: parts publish it again.
func (r *Report) addImage(image compare.Image) {
	if !slices.ContainsFunc(r.Images, func(known compare.Image) bool { return known.Name == image.Name }) {
		r.Images = append(r.Images, image)
	}
}

// addForm notes a form once.
func (r *Report) addForm(form compare.Image) {
	if !slices.ContainsFunc(r.Forms, func(known compare.Image) bool { return known.Name == form.Name && known.Tag == form.Tag }) {
		r.Forms = append(r.Forms, form)
	}
}

// linkProfile is a link by name.
type linkProfile struct {
	name  string
	shape link.Shape
}

var linkProfiles = []linkProfile{{"region", link.Region}, {"wan", link.WAN}}

func bench(ctx context.Context, progress io.Writer, o options) (*Report, error) {
	report := &Report{Machine: thisMachine(), Seed: o.seed, Command: o.command}
	if o.parts["negotiate"] {
		if err := measureNegotiation(ctx, progress, report, o); err != nil {
			return report, err
		}
	}
	others := maps.Clone(o.parts)
	delete(others, "negotiate")
	if len(others) > 0 {
		if err := benchNode(ctx, progress, report, o); err != nil {
			return report, err
		}
	}
	return report, nil
}

// benchNode measures what needs a whole node.
func benchNode(ctx context.Context, progress io.Writer, report *Report, o options) (err error) {
	bed, err := compare.Start(ctx, progress)
	if err != nil {
		return err
	}
	defer func() { //nolint:contextcheck // Stop has to work when ctx has ended
		err = errors.Join(err, bed.Stop())
	}()
	report.Machine.Containerd = bed.Node.Version()
	if o.parts["pulls"] && slices.Contains(o.variants, string(tuned)) {
		if err := bed.StartTuned(ctx); err != nil {
			return err
		}
	}
	for _, l := range linkProfiles {
		added, err := bed.AddLink(ctx, l.name, l.shape)
		if err != nil {
			return err
		}
		fmt.Fprintf(progress, "link %s: %s (measured: %s)\n", l.name, l.shape, added.Measured)
		report.Links = append(report.Links, added)
	}
	if err := startPeers(ctx, bed, o); err != nil {
		return err
	}
	other, err := bed.PublishSynthetic(ctx, "other", regtest.ImageSpec{Layers: 4, LayerSize: 256 << 10, Seed: 1})
	if err != nil {
		return err
	}
	if o.parts["front"] {
		if report.Front, err = measureFront(ctx, bed, other, report.Links[0], o.calls); err != nil {
			return err
		}
	}
	if o.parts["pulls"] {
		if err := measurePulls(ctx, progress, bed, other, report, o); err != nil {
			return err
		}
	}
	if o.parts["reads"] {
		if err := measureReads(ctx, progress, bed, report, o); err != nil {
			return err
		}
	}
	return measureDaemon(ctx, progress, bed, report, o)
}

// measureDaemon measures Referee alone.
func measureDaemon(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report, o options) (err error) {
	if o.parts["memory"] {
		if report.Memory, err = measureMemory(ctx, progress, bed, report.Links[0]); err != nil {
			return err
		}
	}
	if o.parts["misses"] {
		if err := measureMisses(ctx, progress, bed, report); err != nil {
			return err
		}
	}
	if o.parts["crowds"] {
		return measureCrowds(ctx, progress, bed, report)
	}
	return nil
}

// startPeers starts the other projects' snapshotters that are to be measured.
func startPeers(ctx context.Context, bed *compare.Bed, o options) error {
	if !o.parts["pulls"] && !o.parts["reads"] {
		return nil
	}
	for _, way := range compare.Peers() {
		wanted := func(r recipe) bool { return r.way == way && slices.Contains(o.variants, string(r.variant)) }
		if !slices.ContainsFunc(recipes, wanted) {
			continue
		}
		if err := bed.StartPeer(ctx, way); err != nil {
			return err
		}
	}
	return nil
}

func save(file string, report *Report) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
