package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/referee-cri/referee/fallback"
)

//go:embed page.html
var source string

// page is what the template draws.
type page struct {
	Data

	Lazy     bool
	Tiles    []tile
	Amounts  []amount
	Timeline *timeline
	Curve    *curve
	Map      *blockMap
	Facts    []fact
	Replay   string
	Compared string // a sentence on an ordinary pull
}

// tile is one number.
type tile struct{ Name, Value, Note string }

// amount is one bar of the comparison of bytes.
type amount struct {
	Name, Value, Class string
	Width              float64 // percent of the largest
}

type fact struct{ Name, Value string }

// Write writes the page.
func Write(w io.Writer, d Data) error {
	p := page{Data: d, Lazy: d.Entry.Outcome == fallback.Lazy, Timeline: timelineOf(d.Entry.Steps)}
	p.tiles()
	p.amounts()
	p.facts()
	if t := d.Trace; t != nil && len(t.Ranges) > 0 {
		p.Curve, p.Map = curveOf(t), mapOf(t)
		if r := t.Replayed; r != nil {
			p.Replay = fmt.Sprintf("Last fetched ahead %s: %s in %d requests, %.2f s.", day(r.Time), size(r.Bytes), r.Requests, r.Seconds)
		}
	}
	p.compare()
	parsed, err := template.New("report").Funcs(template.FuncMap{"size": size, "day": day, "short": short}).Parse(source)
	if err != nil {
		return fmt.Errorf("parse report template: %w", err)
	}
	if err := parsed.Execute(w, &p); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (p *page) tiles() {
	e := p.Entry
	p.Tiles = append(p.Tiles,
		tile{"PullImage", seconds(float64(e.Steps.Prepare + e.Steps.Forward)), "from the kubelet's request to containerd's answer"},
		tile{"fetched meanwhile", size(e.Fetched), fmt.Sprintf("%d requests; the image has %s", e.Requests, orUnknown(e.ImageBytes))})
	if p.Trace != nil && len(p.Trace.Ranges) > 0 {
		note := fmt.Sprintf("%d ranges", len(p.Trace.Ranges))
		if e.FormBytes > 0 {
			note += fmt.Sprintf(", %.1f %% of the form", percent(p.Trace.Bytes(), e.FormBytes))
		}
		p.Tiles = append(p.Tiles, tile{"read by starts", size(p.Trace.Bytes()), note})
	}
	if v := p.Volume; v != nil {
		p.Tiles = append(p.Tiles, tile{"on the node now", fmt.Sprintf("%.0f %%", percent(v.Here, v.Size)), fmt.Sprintf("%s of %s, %s", size(v.Here), size(v.Size), v.State)})
	}
}

// amounts compares bytes with those of the image.
func (p *page) amounts() {
	e := p.Entry
	add := func(name string, n int64, class string) {
		if n > 0 {
			p.Amounts = append(p.Amounts, amount{Name: name, Value: size(n), Class: class, Width: float64(n)})
		}
	}
	add("an ordinary pull fetches", e.ImageBytes, "theirs")
	if e.Volume != "" {
		add("the whole form has", e.FormBytes, "muted")
		add("fetched for the pull", e.Fetched, "ours")
		if p.Trace != nil {
			add("read by starts", p.Trace.Bytes(), "ours")
		}
		if p.Volume != nil {
			add("fetched since it was opened", p.Volume.Fetched, "ours")
		}
	}
	most := 1.0
	for _, a := range p.Amounts {
		most = max(most, a.Width)
	}
	for i := range p.Amounts {
		p.Amounts[i].Width = max(100*p.Amounts[i].Width/most, 0.3)
	}
}

func (p *page) facts() {
	e := p.Entry
	add := func(name, value string) {
		if value != "" {
			p.Facts = append(p.Facts, fact{name, value})
		}
	}
	if e.Reason != "" {
		add("reason", string(e.Reason)+": "+e.Sentence)
	}
	add("form", strings.Trim(e.Format+", found by "+string(e.Found), ", "))
	add("policy", e.Policy)
	add("verified by", e.Signer)
	add("image", e.Config.String())
	add("manifest", e.Manifest.String())
	add("artifact", e.Artifact.String())
	add("volume", e.Volume)
	add("completion", p.Complete)
	if p.Volume != nil {
		add("now", fmt.Sprintf("%s; %s fetched in %d requests since it was opened", p.Volume.State, size(p.Volume.Fetched), p.Volume.Requests))
	} else if e.Volume != "" {
		add("now", "not known: "+p.Unknown)
	}
	if e.RepeatedAt != nil {
		add("repeated", fmt.Sprintf("%d times, last %s", e.Repeated, day(*e.RepeatedAt)))
	}
	for _, warning := range e.Warnings {
		add("warning", warning)
	}
}

func (p *page) compare() {
	o := p.Ordinary
	if o == nil || !p.Lazy || p.Entry.ImageBytes == 0 {
		return
	}
	p.Compared = fmt.Sprintf("This node last pulled %s from that registry the ordinary way, %s in %s (%s). At that speed the layers of this image take about %s.",
		o.Reference, size(o.Bytes), seconds(o.Took.Seconds()), day(o.Time), seconds(o.guess(p.Entry.ImageBytes).Seconds()))
}

func orUnknown(n int64) string {
	if n == 0 {
		return "an unknown size"
	}
	return size(n)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

// short is what is enough of a digest to find it.
func short(digest any) string {
	text := fmt.Sprint(digest)
	const enough = len("sha256:") + 12
	return text[:min(len(text), enough)]
}

// hostOf is the registry in a normalised reference.
func hostOf(reference string) string {
	host, _, _ := strings.Cut(reference, "/")
	return host
}
