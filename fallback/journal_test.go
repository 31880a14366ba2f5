package fallback_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func entry(reference string) fallback.Entry {
	return fallback.Entry{
		Time: noon, Reference: reference, Manifest: manifest, Config: config, Resolved: noon,
		Outcome: fallback.Lazy, Format: "overlaybd", Artifact: digest.FromString("artifact"), Found: negotiate.FoundTagSchema,
		Volume: "volume-1", Fetched: 2700, Forward: &fallback.Forward{},
		Steps: fallback.Steps{Negotiate: 0.0123, Open: 0.003, Mount: 0.002, Graft: 0.012, Forward: 0.08},
	}
}

func open(t *testing.T) (*fallback.Journal, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "journal")
	journal, err := fallback.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return journal, dir
}

func record(t *testing.T, journal *fallback.Journal, entries ...fallback.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := journal.Record(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournalIsReadWithoutTheDaemon(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	want := entry(ref)
	record(t, journal, entry("registry.example/other:1"), want)
	got, err := fallback.ReadJournal(dir).Last(ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestLastFindsReferencesAndIDs(t *testing.T) {
	t.Parallel()
	journal, _ := open(t)
	first, second, odd := entry("docker.io/library/redis:7"), entry("registry.example/redis:7"), entry("Not A Reference")
	second.Time = noon.Add(time.Hour)
	odd.Manifest, odd.Config = "", ""
	record(t, journal, second, first, odd)
	for asked, want := range map[string]string{
		"redis:7":                   first.Reference,
		"docker.io/library/redis:7": first.Reference,
		"Not A Reference":           odd.Reference,
		config.String():             second.Reference, // the latest of the two
		config.Encoded():            second.Reference,
		config.Encoded()[:12]:       second.Reference,
		manifest.String():           second.Reference,
	} {
		if got, err := journal.Last(asked); err != nil || got.Reference != want {
			t.Errorf("%s: %q, %v; want %q", asked, got.Reference, err, want)
		}
	}
	for _, asked := range []string{"redis:8", "", "sha256:", config.Encoded()[:6], digest.FromString("else").String(), "../../etc/passwd"} {
		if got, err := journal.Last(asked); !errors.Is(err, fallback.ErrNoEntry) {
			t.Errorf("%q: %+v, %v", asked, got, err)
		}
	}
	if _, err := fallback.ReadJournal(filepath.Join(t.TempDir(), "absent")).Last(ref); !errors.Is(err, fallback.ErrNoEntry) {
		t.Errorf("without a directory: %v", err)
	}
}

func TestJournalForgetsTheLongestUntouched(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	const limit = 1000
	old := entry("registry.example/old:1")
	record(t, journal, old)
	text, err := json.Marshal(entry("filler"))
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	for i := range limit {
		path := filepath.Join(dir, fmt.Sprintf("%064d.json", i))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := past.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(path, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	record(t, journal, old) // replacing one prunes nothing
	if entries, _ := journal.All(); len(entries) != limit+1 {
		t.Errorf("%d entries before one is added", len(entries))
	}
	record(t, journal, entry("registry.example/new:1"))
	entries, err := journal.All()
	if err != nil || len(entries) != limit {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	for _, kept := range []string{old.Reference, "registry.example/new:1"} {
		if _, err := journal.Last(kept); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%064d.json", 1))); err == nil {
		t.Error("the longest untouched was kept")
	}
}

func TestCorruptFilesAreReportedAndSkipped(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	record(t, journal, entry(ref), entry("registry.example/broken:1"))
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for content, why := range map[string]string{
		"":                              "unexpected end",
		`{"time":"2026-11-23T12:0`:      "unexpected end",
		"\x00\x00\x00\x00":              "invalid character",
		"[]":                            "cannot unmarshal",
		"{}":                            "outcome",
		strings.Repeat("\n", 1<<20+100): "larger than",
	} {
		broken := filepath.Join(dir, strings.Repeat("0", 64)+".json")
		if err := os.WriteFile(broken, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := journal.All()
		if len(entries) != 2 || err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), broken) {
			t.Errorf("%.30q: %d entries, %v", content, len(entries), err)
		}
		if got, err := journal.Last(config.String()); err != nil || got.Config != config {
			t.Errorf("%.30q hides an intact entry: %v", content, err)
		}
	}
}

// A pull goes its way over a journal that a crash, or anybody else, spoiled.
func TestGuardGoesOnOverACorruptEntry(t *testing.T) {
	t.Parallel()
	n := newNode(t, &world{}, limits())
	prepare(t.Context(), t, n.guard, request(ref))(nil)
	dir := t.TempDir()
	journal, err := fallback.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	record(t, journal, entry(ref))
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	guard := fallback.New(n.world, n.world, journal, nopLog(), limits())
	prepare(t.Context(), t, guard, request(ref))(nil)
	if got, err := journal.Last(ref); err != nil || got.Outcome != fallback.Lazy {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

func TestUnfinishedFilesOfACrashAreIgnoredAndRemoved(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	record(t, journal, entry(ref))
	partial := filepath.Join(dir, ".tmp-123456")
	if err := os.WriteFile(partial, []byte(`{"reference":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if entries, err := journal.All(); err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if _, err := fallback.OpenJournal(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(partial); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Readers in other processes never see half an entry.
func TestReadersSeeWholeEntries(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	record(t, journal, entry(ref))
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for j := range 25 {
				e := entry(ref)
				e.Sentence = strings.Repeat("x", (i*25+j)*10)
				if err := journal.Record(e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := fallback.ReadJournal(dir).Last(ref); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writers.Wait()
	close(stop)
	reader.Wait()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

// What a registry says is bounded on disk and harmless on a terminal.
func TestHostileTextsAreBoundedAndPrintable(t *testing.T) {
	t.Parallel()
	journal, dir := open(t)
	e := entry(ref)
	e.Outcome, e.Reason = fallback.Ordinary, reason.ArtifactInvalid
	e.Sentence = "\x1b]0;owned\x07" + strings.Repeat("\x01é", 1<<20)
	for range 32 {
		e.Rejected = append(e.Rejected, fallback.Rejected{
			Artifact: digest.Digest(strings.Repeat("\x01", 1<<16)), Format: "\x1b[31m\nforged row" + strings.Repeat("\x01", 1<<16),
			Reason: reason.ArtifactInvalid, Detail: strings.Repeat("\xff\xfe\t", 1<<16),
		})
	}
	record(t, journal, e)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Size() > 1<<20 {
		t.Errorf("%d bytes on disk, %v", info.Size(), err)
	}
	got, err := journal.Last(ref)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := got.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, r := range text.String() {
		if r != '\n' && r < ' ' {
			t.Fatalf("the terminal would get %q", r)
		}
	}
	if strings.Contains(text.String(), "\nforged row") {
		t.Error("a text made a row of its own")
	}
}

func FuzzJournalFile(f *testing.F) {
	text, err := json.Marshal(entry(ref))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"outcome":"ordinary","config":"x","repeated_at":"2026-11-23T12:00:00Z","steps":{"forward_seconds":1e300}}`))
	f.Add([]byte(`{"outcome":"lazy","rejected":[{"reason":"no-match"}],"time":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "fuzz.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		journal := fallback.ReadJournal(dir)
		entries, err := journal.All()
		if (len(entries) == 1) == (err != nil) {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
		if _, err := journal.Last("0123456789ab"); err != nil && !errors.Is(err, fallback.ErrNoEntry) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := e.WriteText(&bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(e)
			if err != nil {
				t.Skip(err) // a year beyond 9999 cannot be written
			}
			var reread fallback.Entry
			if err := json.Unmarshal(again, &reread); err != nil {
				t.Errorf("cannot be read back: %v\n%s", err, again)
			}
		}
	})
}
