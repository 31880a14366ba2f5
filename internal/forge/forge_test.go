package forge_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/internal/forge"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestUnbentLayersAreUnchanged takes stock's layers apart and together again.
func TestUnbentLayersAreUnchanged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdata.Dir(t, "overlaybd"), "generated-by-stock", "native3")
	for _, name := range []string{"n1.lz4", "n3.lz4"} {
		blob, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		layer, err := forge.Split(blob)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		layer.Seal()
		layer.SealBlock(0)
		// Only the tar headers are written in other words.
		if got := layer.Bytes(); len(got) != len(blob) || !bytes.Equal(got[forge.TarHead:], blob[forge.TarHead:]) {
			t.Errorf("%s: layer of %d bytes became another of %d", name, len(blob), len(got))
		}
		content, err := layer.Content()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		file, err := forge.SplitLSMT(content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		file.Seal()
		again, err := forge.SplitLSMT(file.Bytes())
		if err != nil || len(again.Segments) != len(file.Segments) || !bytes.Equal(again.Data, file.Data) {
			t.Errorf("%s: LSMT file became another: %v", name, err)
		}
	}
}
