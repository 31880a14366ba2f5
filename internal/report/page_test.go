package report_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/net/html"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/report"
	"github.com/referee-cri/referee/lazyblock/trace"
)

const mib = 1 << 20

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// lazyPull is a pull of a large image whose start was recorded.
func lazyPull() report.Data {
	random := rand.New(rand.NewPCG(1, 2))
	t := &trace.Trace{
		Version: 1, Artifact: digest.FromString("artifact"), Recordings: 2, Began: noon,
		Layers:   []trace.Layer{{Digest: digest.FromString("a"), Size: 52 * mib}, {Digest: digest.FromString("b"), Size: 310 * mib}, {Digest: digest.FromString("c"), Size: 43 * mib}},
		Replayed: &trace.Replay{Time: noon.Add(time.Hour), Requests: 41, Bytes: 47 * mib, Seconds: 0.61},
	}
	at := 0.02
	for range 180 {
		layer := random.IntN(3)
		length := int64(64<<10) * (1 + random.Int64N(8))
		offset := (random.Int64N(t.Layers[layer].Size-length) / (64 << 10)) * (64 << 10)
		if random.IntN(3) > 0 {
			offset /= 6
			offset &^= 64<<10 - 1
		}
		at += random.ExpFloat64() * 0.02
		t.Ranges = append(t.Ranges, trace.Range{Layer: layer, Offset: offset, Length: length, At: at})
	}
	e := &fallback.Entry{
		Time: noon, Reference: "registry.example/data/python:3.13", Manifest: digest.FromString("m"), Config: digest.FromString("c"),
		Outcome: fallback.Lazy, Format: "overlaybd", Artifact: digest.FromString("artifact"), Found: "referrers-api", Policy: "registry.example/data/**",
		Signer: "release@example (release, sigstore-bundle)", Volume: "0f6c9bf13a5e4d2288aa", Fetched: 1_240_000, Requests: 9, ImageBytes: 386 * mib, FormBytes: 405 * mib,
		Steps:   fallback.Steps{Prepare: 0.128, Present: 0.0009, Negotiate: 0.062, Open: 0.031, Mount: 0.0124, Graft: 0.0154, Forward: 0.0315, Confirm: 0.004},
		Forward: &fallback.Forward{},
		Rejected: []fallback.Rejected{
			{Artifact: digest.FromString("t"), Format: "turbooci", Reason: reason.FormatNotAllowed, Detail: "policy registry.example/data/** does not list turbooci"},
			{Artifact: digest.FromString("s"), Reason: reason.NoMatch, Detail: "this is a software bill of materials, not a form of the image"},
		},
	}
	return report.Data{
		Made: noon.Add(2 * time.Hour), Version: "v1.0.0", Node: "node-7", Entry: e, Trace: t, Complete: "complete: 61 %, 247 of 405 MiB",
		Volume:   &report.Volume{State: "mounted", Size: 405 * mib, Here: 247 * mib, Fetched: 251 * mib, Requests: 388},
		Ordinary: &report.Ordinary{Reference: "registry.example/data/node:22", Time: noon.Add(-time.Hour), Bytes: 120 * mib, Took: 3200 * time.Millisecond},
	}
}

// ordinaryPull is one that fell back, of a hostile registry.
func ordinaryPull() report.Data {
	e := &fallback.Entry{
		Time: noon, Reference: "registry.example/app:1", Outcome: fallback.Ordinary, Reason: reason.RegistryError,
		Sentence: `<script>alert(1)</script> said "503" & <img src=https://evil.example/x>`, Steps: fallback.Steps{Prepare: 3, Negotiate: 3, Forward: 12},
		Forward:  &fallback.Forward{},
		Rejected: []fallback.Rejected{{Format: `"><svg onload=alert(2)>`, Reason: reason.NoMatch, Detail: "javascript:alert(3)"}},
		Warnings: []string{"</table><b>bold</b>"},
	}
	return report.Data{Made: noon, Version: "v1", Entry: e}
}

func write(t *testing.T, d report.Data) string {
	t.Helper()
	var page bytes.Buffer
	if err := report.Write(&page, d); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func walk(n *html.Node, visit func(*html.Node)) {
	visit(n)
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		walk(c, visit)
	}
}

// The page may come from a node that somebody else's registry wrote to.
func TestPagesAreSelfContainedAndInert(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]report.Data{"lazy": lazyPull(), "hostile": ordinaryPull()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := write(t, d)
			root, err := html.Parse(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			walk(root, func(n *html.Node) {
				if n.Type != html.ElementNode {
					return
				}
				switch n.Data {
				case "script", "img", "link", "iframe", "object", "base":
					t.Errorf("the page has a %s", n.Data)
				}
				for _, a := range n.Attr {
					if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" || strings.Contains(a.Val, "url(") {
						t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
					}
				}
			})
			for _, bad := range []string{"@import", "ZgotmplZ", "NaN", "+Inf", "%!"} {
				if strings.Contains(text, bad) {
					t.Errorf("the page has %q", bad)
				}
			}
		})
	}
}

func TestPagesTellWhatHappened(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		data      report.Data
		has, lack []string
	}{
		"lazy": {lazyPull(), []string{
			"registry.example/data/python:3.13", "lazy, as overlaybd", "release@example", "registry.example/data/**", "1.2 MiB", "386 MiB", "160 ms", "negotiate", "61 %",
			`id="blocks"`, `id="start"`, `id="pull"`, "read after", "At that speed the layers of this image take about 10.3 s", "41 requests", "does not list turbooci",
		}, nil},
		"ordinary": {ordinaryPull(), []string{"ordinary", "registry-error", "15 s", "&lt;script&gt;"}, []string{`id="blocks"`, `id="start"`, `id="bytes"`}},
		"without times": {func() report.Data {
			d := lazyPull()
			for i := range d.Trace.Ranges {
				d.Trace.Ranges[i].At = 0
			}
			return d
		}(), []string{`id="blocks"`}, []string{`id="start"`, "read after", "until"}},
		"nothing known": {report.Data{Entry: &fallback.Entry{Outcome: fallback.Ordinary}}, []string{"ordinary"}, []string{`id="pull"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := write(t, tc.data)
			for _, want := range tc.has {
				if !strings.Contains(text, want) {
					t.Errorf("the page lacks %q", want)
				}
			}
			for _, unwanted := range tc.lack {
				if strings.Contains(text, unwanted) {
					t.Errorf("the page has %q", unwanted)
				}
			}
		})
	}
}

func TestCompareTakesTheLastOrdinaryPullOfTheRegistry(t *testing.T) {
	t.Parallel()
	ordinary := func(reference string, change func(*fallback.Entry)) fallback.Entry {
		e := fallback.Entry{Reference: reference, Outcome: fallback.Ordinary, ImageBytes: 10 * mib, Forward: &fallback.Forward{}, Steps: fallback.Steps{Forward: 2}}
		if change != nil {
			change(&e)
		}
		return e
	}
	entries := []fallback.Entry{
		ordinary("other.example/a:1", nil),
		ordinary("r.example/lazy:1", func(e *fallback.Entry) { e.Outcome = fallback.Lazy }),
		ordinary("r.example/failed:1", func(e *fallback.Entry) { e.Forward.Error = "x" }),
		ordinary("r.example/small:1", func(e *fallback.Entry) { e.ImageBytes = 1000 }),
		ordinary("r.example/present:1", func(e *fallback.Entry) { e.Reason = reason.AlreadyPresent }),
		ordinary("r.example/unknown:1", func(e *fallback.Entry) { e.ImageBytes = 0 }),
		ordinary("r.example/this:1", nil),
		ordinary("r.example/older:1", nil),
	}
	got := report.Compare(&fallback.Entry{Reference: "r.example/app:1"}, entries)
	if got == nil || got.Reference != "r.example/this:1" || got.Took != 2*time.Second || got.Bytes != 10*mib {
		t.Errorf("got %+v", got)
	}
	if got := report.Compare(&fallback.Entry{Reference: "elsewhere.example/app:1"}, entries); got != nil {
		t.Errorf("compared with %+v", got)
	}
}
