package turbooci

import (
	"fmt"
	"testing"

	"github.com/referee-cri/referee/internal/treecmp"
)

// forms are the reference image's forms, with what their writers change.
var forms = map[string]struct {
	manifest string
	differs  []treecmp.Ignore
}{
	"ext4":  {formExt4, ext4Differs},
	"erofs": {formEROFS, erofsDiffers},
}

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	for fs, tc := range forms {
		form := reference(t, tc.manifest)
		for n := 1; n <= len(form.Tables); n++ {
			t.Run(fmt.Sprintf("%s, %d layers", fs, n), func(t *testing.T) {
				t.Parallel()
				name := "tiny.tree.jsonl"
				if n < len(form.Tables) {
					name = fmt.Sprintf("tiny.prefix%d.tree.jsonl", n)
				}
				prefix := form
				prefix.Tables = form.Tables[:n]
				v := open(t, prefix)
				if v.FSType != fs {
					t.Errorf("file system %s, want %s", v.FSType, fs)
				}
				for _, d := range treecmp.Diff(recorded(t, name), tree(t, v), tc.differs...) {
					t.Error(d)
				}
			})
		}
	}
}
