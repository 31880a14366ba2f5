package turbooci

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/fsimage"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/format/formattest"
)

// Digests of the reference data: the image, and its two TurboOCI forms.
const (
	imageManifest = "sha256:07dd292726603f52d87bd8ab9a856f6b98b9abef5eea6be23a1b4a4757e40063"
	formExt4      = "sha256:1f49534bfd4354022c982e1c116ca40f44f31fb1aaafa982c3c434d3c81b661d"
	formEROFS     = "sha256:b561b8a298c95ba981785cf6e0f9823e1072545aa036d07647c84fcaae8353f3"
)

// open opens a form whose volume is closed when the test ends.
func open(t testing.TB, form lazyblock.Form) lazyblock.Volume {
	t.Helper()
	v, err := Open(t.Context(), form, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// reference is the reference image in a form.
func reference(t testing.TB, form digest.Digest) lazyblock.Form {
	t.Helper()
	image := formattest.Image{Layers: formattest.Layers(t, imageManifest), Tables: formattest.Layers(t, form)}
	return image.Form("test")
}

// expectTree mounts a volume through a loop device and compares what the kernel
// shows.
func expectTree(t testing.TB, want treecmp.Tree, v lazyblock.Volume, differs ...treecmp.Ignore) {
	t.Helper()
	treecmp.ExpectAt(t, want, fsimage.MountLoop(t, v.FSType, formattest.SparseFile(t, v.Primary)), differs...)
}

// What the writers of both forms do (reference README).
var commonDiffers = []treecmp.Ignore{
	formattest.CountsWhiteout,
	{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "the writer keeps trusted.lab"},
}

// What the ext4 writer does.
var ext4Differs = append([]treecmp.Ignore{
	{Path: "/lost+found", Why: "mkfs makes it"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldUID, Why: "PAX owners are ignored"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldGID, Why: "PAX owners are ignored"},
	{Field: treecmp.FieldNsec, Why: "times are whole seconds"},
	{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "times end in 2038"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "times end in 2038"},
}, commonDiffers...)

var longName = "/nasty/names/" + strings.Repeat("w", 255)

// What the EROFS writer does.
var erofsDiffers = append([]treecmp.Ignore{
	{Path: "/", Field: treecmp.FieldMode, Why: "the writer makes it 0777"},
	{Path: longName, Field: treecmp.FieldPresence, Why: "names end after 254 bytes"},
	{Path: longName[:len(longName)-1], Field: treecmp.FieldPresence, Why: "names end after 254 bytes"},
	{Path: "/nasty/time/tenth", Field: treecmp.FieldNsec, Why: "a short fraction is read as nanoseconds"},
}, commonDiffers...)
