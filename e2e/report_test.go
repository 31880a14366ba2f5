package e2e_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/testdata"
)

// explainedPull is what explain tells, as JSON.
type explainedPull struct {
	fallback.Entry

	Startup *struct {
		Ranges int   `json:"ranges"`
		Bytes  int64 `json:"bytes"`
	} `json:"startup"`
	Now *struct {
		Size     int64 `json:"size_bytes"`
		Cached   int64 `json:"cached_bytes"`
		Fetched  int64 `json:"fetched_bytes"`
		Requests int64 `json:"requests"`
	} `json:"now"`
}

// TestReportedPull pulls and starts an image lazily, and compares the figures of the
// page with what explain tells of the same pull.
func TestReportedPull(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	ref := b.pushOriginal(t, layout)
	b.command.run(t, "convert", ref, "--temp-dir", t.TempDir())
	b.pull(t, ref, fallback.Lazy)
	container := start(t, b.lazy, ref, "/bin/busybox", "sleep", "1000")
	removePod(t, container)
	b.end(t, b.referee.Stop) // what a start read is written down by then
	b.begin(t)

	file := filepath.Join(t.TempDir(), "report.html")
	if said := b.command.run(t, "report", ref, "-o", file); said != file+"\n" {
		t.Errorf("report says %q", said)
	}
	var e explainedPull
	if err := json.Unmarshal([]byte(b.command.run(t, "explain", ref, "--output", "json")), &e); err != nil {
		t.Fatal(err)
	}
	if e.Now == nil || e.Startup == nil || e.Now.Size == 0 || e.Startup.Bytes == 0 || e.Fetched == 0 {
		t.Fatalf("explain tells of no start or no volume: %+v", e)
	}
	page := readPage(t, file)
	page.expectBytes(t, "fetched meanwhile", e.Fetched)
	page.expectBytes(t, "read by starts", e.Startup.Bytes)
	page.expectBytes(t, "an ordinary pull fetches", e.ImageBytes)
	page.expectBytes(t, "the whole form has", e.FormBytes)
	page.expectBytes(t, "fetched for the pull", e.Fetched)
	page.expectText(t, "read by starts", strconv.Itoa(e.Startup.Ranges)+" ranges")
	page.expectText(t, "fetched meanwhile", strconv.FormatInt(e.Requests, 10)+" requests; ")
	page.expectText(t, "on the node now", strconv.FormatFloat(100*float64(e.Now.Cached)/float64(e.Now.Size), 'f', 0, 64)+" %")
	page.expectSeconds(t, "PullImage", float64(e.Steps.Prepare+e.Steps.Forward))
	for step, took := range map[string]fallback.Seconds{"negotiate": e.Steps.Negotiate, "open": e.Steps.Open, "mount": e.Steps.Mount, "graft": e.Steps.Graft} {
		page.expectSeconds(t, step, float64(took))
	}
	for name, value := range map[string]string{
		"form": e.Format + ", found by " + string(e.Found), "image": e.Config.String(), "manifest": e.Manifest.String(),
		"artifact": e.Artifact.String(), "volume": e.Volume, "policy": e.Policy,
	} {
		page.expectText(t, name, value)
	}
	page.expectText(t, "now", "in "+strconv.FormatInt(e.Now.Requests, 10)+" requests since it was opened")
}

// reportPage are the texts of a page's tiles, bars and rows, by their names.
type reportPage map[string][]string

// readPage takes as a name the first text of a tile, a bar or a row, and as what is
// said of it the others.
func readPage(t *testing.T, file string) reportPage {
	t.Helper()
	text, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	root, err := html.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	page := reportPage{}
	for n := range root.Descendants() {
		isTile := len(n.Attr) > 0 && n.Attr[0].Key == "class" && (n.Attr[0].Val == "tile" || n.Attr[0].Val == "amount")
		if n.Type != html.ElementNode || (n.Data != "tr" && n.Data != "g" && !isTile) {
			continue
		}
		var texts []string
		for d := range n.Descendants() {
			if d.Type == html.TextNode && strings.TrimSpace(d.Data) != "" {
				texts = append(texts, strings.TrimSpace(d.Data))
			}
		}
		if len(texts) > 1 {
			page[texts[0]] = append(page[texts[0]], texts[1:]...)
		}
	}
	return page
}

func (p reportPage) expectText(t *testing.T, name, want string) {
	t.Helper()
	if !strings.Contains(strings.Join(p[name], "\n"), want) {
		t.Errorf("%s: the page has %q, explain tells %q", name, p[name], want)
	}
}

// expectBytes wants the figures of the name to be n, but for rounding.
func (p reportPage) expectBytes(t *testing.T, name string, n int64) {
	t.Helper()
	p.expectFigure(t, name, float64(n), map[string]float64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30})
}

func (p reportPage) expectSeconds(t *testing.T, name string, s float64) {
	t.Helper()
	p.expectFigure(t, name, s, map[string]float64{"µs": 1e-6, "ms": 1e-3, "s": 1})
}

// expectFigure looks at texts that are a number and a unit: there is one at least, and
// each is what explain tells.
func (p reportPage) expectFigure(t *testing.T, name string, want float64, units map[string]float64) {
	t.Helper()
	const rounded = 0.51 // of the last digit
	seen := 0
	for _, text := range p[name] {
		number, unit, _ := strings.Cut(text, " ")
		value, err := strconv.ParseFloat(number, 64)
		if scale, known := units[unit]; err == nil && known {
			seen++
			_, decimals, _ := strings.Cut(number, ".")
			if math.Abs(value-want/scale) > rounded*math.Pow10(-len(decimals)) {
				t.Errorf("%s: the page has %s, explain tells %g", name, text, want)
			}
		}
	}
	if seen == 0 {
		t.Errorf("%s: the page has %q, explain tells %g", name, p[name], want)
	}
}
