package e2e_test

import (
	"path/filepath"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
)

// start runs a container of ref and removes its pod when the test ends.
func start(t *testing.T, client *node.Client, ref string, command ...string) *node.Container {
	t.Helper()
	container, err := client.Run(t.Context(), "test", ref, command...)
	if err != nil {
		t.Fatalf("run %s: %v", ref, err)
	}
	t.Cleanup(func() { removePod(t, container) })
	return container
}

// treeOf lists what the container's root file system shows, from outside.
func treeOf(t *testing.T, n *node.Node, container *node.Container) treecmp.Tree {
	t.Helper()
	tree, err := treecmp.List(n.RootFS(container))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree) < 10 {
		t.Fatalf("the container shows %d entries only", len(tree))
	}
	return tree
}

// expectTree fails the test for each difference that is not accepted.
func expectTree(t *testing.T, want, got treecmp.Tree, accepted ...treecmp.Ignore) {
	t.Helper()
	differences := treecmp.Diff(want, got, accepted...)
	for i, d := range differences {
		if i == 30 {
			t.Errorf("… and %d more", len(differences)-i)
			break
		}
		t.Error(d)
	}
}

// madeByRuntime is what runc and containerd put into a container's own layer.
var madeByRuntime = []treecmp.Ignore{
	{Path: "/", Field: treecmp.FieldMtime, Why: "entries are made below"},
	{Path: "/", Field: treecmp.FieldNsec, Why: "entries are made below"},
	{Path: "/dev/**", Why: "mount point"},
	{Path: "/proc", Why: "mount point"},
	{Path: "/sys", Why: "mount point"},
	{Path: "/run/**", Why: "mount point"},
	{Path: "/etc", Field: treecmp.FieldMtime, Why: "entries are made below"},
	{Path: "/etc", Field: treecmp.FieldNsec, Why: "entries are made below"},
	{Path: "/etc/hostname", Why: "bind mount of the pod's"},
	{Path: "/etc/hosts", Why: "bind mount of the pod's"},
	{Path: "/etc/resolv.conf", Why: "bind mount of the pod's"},
}

// unlikeOverlay is what a stack of directories shows otherwise than one volume.
var unlikeOverlay = []treecmp.Ignore{
	{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "overlayfs counts a name that a layer whited out"},
}

// stockDiffers is what the converter that wrote the reference forms changes
// (the reference set's README lists it).
var stockDiffers = []treecmp.Ignore{
	{Path: "/lost+found", Why: "its mkfs makes it"},
	{Field: treecmp.FieldNsec, Why: "drops nanoseconds"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldUID, Why: "ignores PAX uid"},
	{Path: "/nasty/owners/3000000-3000001", Field: treecmp.FieldGID, Why: "ignores PAX gid"},
	{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "keeps trusted.lab"},
}

func loadTree(t *testing.T, name string) treecmp.Tree {
	t.Helper()
	tree, err := treecmp.Load(filepath.Join(testdata.Dir(t, "reference"), name))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
