// Command list prints the commands of the documents that the named runner runs, one a
// line after where it stands and a tab, for tests of other modules.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/referee-cri/referee/e2e/documents"
)

func main() {
	if err := list(os.Stdout, strings.Join(os.Args[1:], " ")); err != nil {
		fmt.Fprintln(os.Stderr, "list:", err)
		os.Exit(1)
	}
}

func list(w io.Writer, runner string) error {
	blocks, err := documents.Of(".", runner)
	if err != nil {
		return err
	}
	for i := range blocks {
		for _, line := range blocks[i].Lines() {
			if _, err := fmt.Fprintf(w, "%s\t%s\n", &blocks[i], line); err != nil {
				return err
			}
		}
	}
	return nil
}
