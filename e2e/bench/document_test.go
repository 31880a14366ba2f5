package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/link"
)

// TestDocument draws a small report: every figure of it stands in the text, and
// every picture is whole.
func TestDocument(t *testing.T) {
	t.Parallel()
	image, l := compare.Image{Name: "thing<&>", Size: 400 << 20}, compare.Link{Name: "wan", Shape: link.WAN}
	r := &Report{Command: "go run ./e2e/bench -n 1", Links: []compare.Link{l}, Images: []compare.Image{image}}
	for i, variant := range []Variant{ordinary, tuned, lazyCold, lazyWarm, lazyTraced} {
		r.Pulls = append(r.Pulls, Sample{Image: image.Name, Link: l.Name, Variant: variant, Pull: time.Duration(i+1) * time.Second, Ready: time.Duration(20-3*i) * time.Second, Bytes: 7e6})
	}
	for _, variant := range []Variant{ordinary, lazyCold, stargz} {
		d := Durations{time.Second}
		r.Reads = append(r.Reads, Reading{Image: image.Name, Variant: variant, CPU: time.Second, Bytes: 1e6, Whole: 3 * time.Second, Walk: d, WarmSequential: d, WarmRandom: d, ColdSequential: d, ColdRandom: d, Passes: 1})
	}
	r.Pulls = append(r.Pulls, Sample{Image: image.Name, Link: l.Name, Variant: stargz, Pull: time.Second, Ready: 28 * time.Second})
	r.Misses = []Misses{{Link: l.Name, Took: Durations{60 * time.Millisecond}}}
	r.Links[0].Measured.RTT = 50 * time.Millisecond
	r.Crowds = []Crowd{
		{Name: alone, Pulls: 1, Took: Durations{time.Second}, Requests: 12, Containerd: 2},
		{Name: sameImage, Pulls: 50, Took: Durations{time.Second}, Requests: 120, Containerd: 100},
	}
	folder := t.TempDir()
	if err := r.document(folder); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		r.Command, "17.000", "lazy, traced against tuned", "2.12x", "benchmarks/ready.svg",
		"lazy, cold against stargz", "2.00x", // ready after 14 s and 28 s
		"1000.00",                           // ms of CPU time for each MB
		"<= 1.2, 3", "<= 1.2x the requests", // 20 are more than 1.2 times 10
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("benchmarks.md is without %q:\n%s", want, text)
		}
	}
	drawn, err := filepath.Glob(filepath.Join(folder, "benchmarks", "*.svg"))
	if err != nil || len(drawn) != 7 {
		t.Fatalf("pictures: %q, %v", drawn, err)
	}
	for _, file := range drawn {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(f)
		for err == nil {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", file, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
