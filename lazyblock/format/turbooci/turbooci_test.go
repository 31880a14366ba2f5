package turbooci

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// forms are the reference image's forms, with what their writers change.
var forms = map[string]struct {
	manifest digest.Digest
	differs  []treecmp.Ignore
}{
	"ext4":  {formExt4, ext4Differs},
	"erofs": {formEROFS, erofsDiffers},
}

func TestEveryPrefixIsTheRecordedTree(t *testing.T) {
	t.Parallel()
	trees := formattest.TinyTrees(t)
	for fs, tc := range forms {
		form := reference(t, tc.manifest)
		for n := 1; n <= len(form.Tables); n++ {
			t.Run(fmt.Sprintf("%s, %d layers", fs, n), func(t *testing.T) {
				t.Parallel()
				prefix := form
				prefix.Tables = form.Tables[:n]
				v := open(t, prefix)
				if v.FSType != fs {
					t.Errorf("file system %s, want %s", v.FSType, fs)
				}
				expectTree(t, trees[n-1], v, tc.differs...)
			})
		}
	}
}
