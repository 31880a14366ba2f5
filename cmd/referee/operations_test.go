package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/telemetry"
)

var update = flag.Bool("update", false, "write docs/operations.md anew") //nolint:gochecknoglobals // how flags of tests are made

const operations = "../../docs/operations.md"

// The tables of the operator's document are made from the code. `make generate`
// writes them.
func TestOperationsDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	was, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	text := string(was)
	for name, table := range map[string]string{
		"metrics": metricsTable(), "configuration": configTable(), "reasons": reasonsTable(), "commands": commandsTable(), "json": jsonTables(t),
	} {
		region := regexp.MustCompile(`(?s)(<!-- generated: ` + name + ` -->\n).*?(<!-- end -->)`)
		if !region.MatchString(text) {
			t.Fatalf("%s has no place for %s", operations, name)
		}
		text = region.ReplaceAllStringFunc(text, func(old string) string {
			parts := region.FindStringSubmatch(old)
			return parts[1] + "\n" + table + "\n" + parts[2]
		})
	}
	if *update {
		if err := os.WriteFile(operations, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(string(was), text); diff != "" {
		t.Errorf("%s is not current; `make generate` (-was +want):\n%s", operations, diff)
	}
}

// table writes a table of Markdown.
func table(head []string, rows [][]string) string {
	var text strings.Builder
	line := func(cells []string) { fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, row := range rows {
		line(row)
	}
	return text.String()
}

func code(text string) string { return "`" + text + "`" }

func metricsTable() string {
	m := telemetry.New("v1")
	m.Watch(func() telemetry.State { return telemetry.State{} })
	var rows [][]string
	for _, d := range m.Definitions() {
		labels := make([]string, len(d.Labels))
		for i, label := range d.Labels {
			labels[i] = code(label)
		}
		rows = append(rows, []string{code(d.Name), d.Type, strings.Join(labels, ", "), d.Help})
	}
	return table([]string{"metric", "type", "labels", "meaning"}, rows)
}

func reasonsTable() string {
	var rows [][]string
	for _, m := range reason.Meanings() {
		rows = append(rows, []string{code(string(m.Code)), m.Means})
	}
	return table([]string{"code", "meaning"}, rows)
}

var (
	tomlTable = regexp.MustCompile(`^\[?\[(\w+)\]\]?$`)
	tomlKey   = regexp.MustCompile(`^(\w+) = (.*)$`)
)

// configTable reads the commented defaults, and the blocks that are all comments.
func configTable() string {
	var rows [][]string
	section, said := "", ""
	for line := range strings.Lines(string(configs.DefaultTOML)) {
		line = strings.TrimRight(line, "\n")
		example := strings.HasPrefix(line, "#   ")
		if example {
			line = strings.TrimPrefix(line, "#   ")
		}
		switch key, head := tomlKey.FindStringSubmatch(line), tomlTable.FindStringSubmatch(line); {
		case line == "" || line == "#":
			said = ""
		case head != nil:
			section = head[1]
			if example {
				said = "" // of the block before
			}
		case strings.HasPrefix(line, "# "):
			said += strings.TrimPrefix(line, "# ") + " "
		case key != nil && (!example || section == "policy" || section == "trust"):
			name := key[1]
			if section != "" {
				name = section + "." + name
			}
			value := key[2]
			if value == "[" {
				value = "[…]"
			}
			if said == "" {
				said = "(with the one before)"
			}
			rows = append(rows, []string{code(name), code(value), strings.TrimSpace(strings.ReplaceAll(said, "|", `\|`))})
			said = ""
		}
	}
	return table([]string{"key", "default; in `policy` and `trust` an example", "meaning"}, rows)
}

func commandsTable() string {
	var rows [][]string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.Hidden && c.Name() != "help" {
			var flags []string
			c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" && !f.Hidden {
					flags = append(flags, code("--"+f.Name))
				}
			})
			rows = append(rows, []string{code(strings.ReplaceAll(strings.TrimSuffix(c.UseLine(), " [flags]"), "|", `\|`)), c.Short, strings.Join(flags, ", ")})
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(rootCommand())
	slices.SortFunc(rows, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
	return table([]string{"command", "job", "flags"}, rows)
}
