package report_test

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browse has Chromium, with no network, load a page and returns what it says and
// shows. The picture is kept where REPORT_PICTURES names a folder.
func browse(t *testing.T, page string, dark bool) (dom string, shot image.Image) {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Skip("needs Debian's package chromium")
	}
	dir := t.TempDir()
	file, picture := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.png")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + filepath.Join(dir, "profile"),
		"--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1100,1900", "--virtual-time-budget=1000",
	}
	if dark {
		flags = append(flags, "--blink-settings=preferredColorScheme=0")
	}
	run := func(extra ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var out, problems strings.Builder
		chromium := exec.CommandContext(ctx, "chromium", append(append(flags, extra...), "file://"+file)...)
		chromium.Env = append(os.Environ(), "HOME="+dir)
		chromium.Stdout, chromium.Stderr = &out, &problems
		if err := chromium.Run(); err != nil {
			t.Fatalf("chromium: %v\n%s", err, problems.String())
		}
		return out.String()
	}
	dom = run("--dump-dom")
	run("--screenshot=" + picture)
	if keep := os.Getenv("REPORT_PICTURES"); keep != "" {
		copied, err := os.ReadFile(picture)
		if err == nil {
			err = os.WriteFile(filepath.Join(keep, fmt.Sprintf("report-dark-%v.png", dark)), copied, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
	f, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if shot, err = png.Decode(f); err != nil {
		t.Fatal(err)
	}
	return dom, shot
}

// brightness is the share of white in a picture's corner, where the page's own
// background is.
func brightness(shot image.Image) float64 {
	r, g, b, _ := shot.At(3, 3).RGBA()
	return float64(r+g+b) / (3 * 0xffff)
}

func colours(shot image.Image) int {
	seen := make(map[[3]uint32]bool)
	for y := shot.Bounds().Min.Y; y < shot.Bounds().Max.Y; y += 3 {
		for x := shot.Bounds().Min.X; x < shot.Bounds().Max.X; x += 3 {
			r, g, b, _ := shot.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
		}
	}
	return len(seen)
}

func TestBrowsersDrawThePage(t *testing.T) {
	t.Parallel()
	page := write(t, lazyPull())
	dom, light := browse(t, page, false)
	if n := strings.Count(dom, "<title>"); n < 100 {
		t.Errorf("the browser sees %d titles, want one a cell that was read", n)
	}
	_, dark := browse(t, page, true)
	if l, d := brightness(light), brightness(dark); l < 0.8 || d > 0.2 {
		t.Errorf("brightness of the page: light %.2f, dark %.2f", l, d)
	}
	for name, shot := range map[string]image.Image{"light": light, "dark": dark} {
		if n := colours(shot); n < 30 {
			t.Errorf("%s: only %d colours: little was drawn", name, n)
		}
	}
}
