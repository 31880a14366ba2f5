// Command soci-ztoc writes the ztoc of a layer with SOCI's own library, for
// tests that compare. It is a module of its own because that library needs cgo and
// zlib.
//
//	soci-ztoc LAYER gzip|uncompressed SPANSIZE >ZTOC
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/awslabs/soci-snapshotter/ztoc"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "soci-ztoc:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("got %d arguments, expected LAYER ALGORITHM SPANSIZE", len(args))
	}
	span, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	made, err := ztoc.NewBuilder("AWS SOCI CLI v0.2").BuildZtoc(args[0], span, ztoc.WithCompression(args[1]))
	if err != nil {
		return err
	}
	r, _, err := ztoc.Marshal(made)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return err
}
