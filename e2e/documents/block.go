package documents

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Block is one fenced block of a document.
type Block struct {
	Document string   // its path below the checkout
	Line     int      // of the document, on which the fence is
	Language string   // "sh", "console", any other, or ""
	Runner   string   // the word after the language, "" where there is none
	Script   string   // what is typed, without what is in [NotRun]; a program for sh
	Skipped  []string // the commands that are in NotRun
	Answer   string   // of a transcript what is answered, of other languages all
}

func (b *Block) String() string { return fmt.Sprintf("%s:%d", b.Document, b.Line) }

// Commands reports whether somebody is to type what the block holds.
func (b *Block) Commands() bool { return b.Language == "sh" || b.Language == "console" }

// Lines are the commands of a block that has one on each line.
func (b *Block) Lines() []string {
	return strings.Split(strings.TrimSpace(b.Script), "\n")
}

// All returns the blocks of all documents below root, in order. Folders whose name
// begins with a dot are not looked into.
func All(root string) ([]Block, error) {
	var blocks []Block
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		found, err := parse(name, string(text))
		blocks = append(blocks, found...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	return blocks, nil
}

// Of returns the blocks that a runner runs, in order.
func Of(root, runner string) ([]Block, error) {
	all, err := All(root)
	if err != nil {
		return nil, err
	}
	var own []Block
	for i := range all {
		if all[i].Commands() && all[i].Runner == runner && all[i].Script != "" {
			own = append(own, all[i])
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("no document has a block for %q", runner)
	}
	return own, nil
}

// parse finds the blocks of one document.
func parse(document, text string) ([]Block, error) {
	var blocks []Block
	var open *Block
	var body []string
	for i, line := range strings.Split(text, "\n") {
		info, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case !isFence:
			body = append(body, line)
		case open == nil:
			open, body = &Block{Document: document, Line: i + 1}, nil
			open.Language, open.Runner, _ = strings.Cut(strings.TrimSpace(info), " ")
		default:
			open.fill(body)
			blocks = append(blocks, *open)
			open = nil
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block never ends", open)
	}
	return blocks, nil
}

// fill divides the lines between the fences into what is typed and what is answered.
func (b *Block) fill(body []string) {
	var script, answer []string
	for _, line := range body {
		command, typed := line, b.Language == "sh"
		if b.Language == "console" {
			command, typed = strings.CutPrefix(line, "$ ")
		}
		switch {
		case !typed:
			answer = append(answer, line)
		case reasonNotRun(command) != "":
			b.Skipped = append(b.Skipped, command)
		default:
			script = append(script, command)
		}
	}
	b.Script, b.Answer = strings.Join(script, "\n"), strings.Join(answer, "\n")
}

// label is what stands at the beginning of a line, before a gap.
var label = regexp.MustCompile(`(?m)^ *([[:alpha:]][\w-]*(?: [\w-]+)*)  +\S`)

// Unsaid returns the labels of a transcript's answer that a real answer lacks: figures
// change, labels are what a reader looks for.
func (b *Block) Unsaid(answer string) []string {
	said := make(map[string]bool)
	for _, found := range label.FindAllStringSubmatch(answer, -1) {
		said[found[1]] = true
	}
	var missing []string
	for _, found := range label.FindAllStringSubmatch(b.Answer, -1) {
		if !said[found[1]] {
			missing = append(missing, found[1])
		}
	}
	return missing
}
