package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// commandLine is a line of a document that somebody may type.
var commandLine = regexp.MustCompile(`(?m)^referee ([^\n#]*)`)

// Every command in the documents exists, with its options.
func TestDocumentedCommandsExist(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, document := range []string{"docs/install.md", "docs/security.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join("../..", document))
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(text), "\n```") {
			if i%2 == 0 {
				continue // between blocks
			}
			for _, found := range commandLine.FindAllStringSubmatch(block, -1) {
				seen++
				command, rest, err := rootCommand().Find(strings.Fields(found[1]))
				if err == nil && !command.Runnable() {
					err = command.Help()
				}
				if err == nil {
					command.InitDefaultHelpFlag()
					err = command.ParseFlags(rest)
				}
				if err == nil {
					err = command.ValidateArgs(command.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: referee %s: %v", document, found[1], err)
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("only %d commands are in the documents", seen)
	}
}

// testName is what docs/security.md calls a test.
var testName = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)

// Every test that the threat model names exists, in the folder it is named with.
func TestDocumentedTestsExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	folder := regexp.MustCompile("`([a-z/0-9]+)`((?: (?:Test|Fuzz)\\w+,?)+)")
	for _, found := range folder.FindAllStringSubmatch(string(text), -1) {
		tests := testsBelow(t, filepath.Join("../..", found[1]))
		for _, name := range testName.FindAllString(found[2], -1) {
			named++
			if !strings.Contains(tests, "\nfunc "+name+"(") {
				t.Errorf("%s has no %s", found[1], name)
			}
		}
	}
	if all := len(testName.FindAllString(string(text), -1)); named != all || named < 30 {
		t.Errorf("%d of %d tests are named with their folder", named, all)
	}
}

// testsBelow is the text of a folder's test files.
func testsBelow(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
