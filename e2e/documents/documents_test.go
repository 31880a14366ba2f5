package documents_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/e2e/documents"
)

const checkout = "../.."

// command is a line that looks as if somebody were to type it.
var command = regexp.MustCompile(`(?m)^(?:\$ .*|(?:referee|make|helm|kubectl|oras|cosign|notation|go|curl|systemctl|dpkg|rpm|apt-get|docker|crictl|ctr|mkfs\.\w+) +\S.*)`)

// Every command is run by the test that its block names, or is in the list of those
// that nobody runs.
func TestEveryCommandIsRun(t *testing.T) {
	t.Parallel()
	all, err := documents.All(checkout)
	if err != nil {
		t.Fatal(err)
	}
	runners, claimed, skipped := documents.Runners(), map[string]int{}, []string{}
	for i := range all {
		b := &all[i]
		if !b.Commands() {
			for _, line := range command.FindAllString(b.Answer, -1) {
				t.Errorf("%s: %q is in a block that is neither sh nor console", b, line)
			}
			continue
		}
		skipped = append(skipped, b.Skipped...)
		if _, known := runners[b.Runner]; !known && (b.Script != "" || b.Runner != "") {
			t.Errorf("%s: no test runs %q (runner %q)", b, b.Script, b.Runner)
		}
		claimed[b.Runner] += len(b.Lines())
	}
	t.Logf("lines by runner: %v; not run: %d", claimed, len(skipped))
	for begin, reason := range documents.NotRun() {
		if !slices.ContainsFunc(skipped, func(line string) bool { return strings.HasPrefix(line, begin) }) {
			t.Errorf("no document has %q, which is not run because %s", begin, reason)
		}
	}
}

// The tests that run commands exist, and ask for them by the runner's name.
func TestRunnersExist(t *testing.T) {
	t.Parallel()
	for name, runner := range documents.Runners() {
		files, err := filepath.Glob(filepath.Join(checkout, runner.Folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var tests strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(text)
		}
		asks := regexp.MustCompile(`documents\.` + strings.ToUpper(name[:1]) + name[1:] + `\b|documents/list", "` + name + `"`)
		if !strings.Contains(tests.String(), "\nfunc "+runner.Test+"(") || !asks.MatchString(tests.String()) {
			t.Errorf("%s has no %s that runs what is for %s", runner.Folder, runner.Test, name)
		}
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const text = "# Title\n\n```sh node\na \\\n  b\nmake test   # all\n```\n\n```console node\n$ c\nname   1\nother name  2\n$ d\n```\n\n```toml\nx = 1\n```\n"
	for name, content := range map[string]string{"one.md": text, ".cache/no.md": text, "two.txt": text} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := documents.All(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []documents.Block{
		{Document: "one.md", Line: 3, Language: "sh", Runner: "node", Script: "a \\\n  b", Skipped: []string{"make test   # all"}},
		{Document: "one.md", Line: 9, Language: "console", Runner: "node", Script: "c\nd", Answer: "name   1\nother name  2"},
		{Document: "one.md", Line: 16, Language: "toml", Answer: "x = 1"},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if missing := all[1].Unsaid("name   7\n"); !slices.Equal(missing, []string{"other name"}) {
		t.Errorf("unsaid are %q", missing)
	}
	if _, err := documents.Of(root, "nobody"); err == nil {
		t.Error("a runner without a block is none")
	}
	if err := os.WriteFile(filepath.Join(root, "open.md"), []byte("```sh\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := documents.All(root); err == nil || !strings.Contains(err.Error(), "open.md:1") {
		t.Errorf("a block that never ends: %v", err)
	}
}
