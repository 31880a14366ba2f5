package graft

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/referee-cri/referee/e2e/node"
)

// bed is a real containerd with volumes that are tmpfs mounts.
type bed struct {
	*Grafter

	node  *node.Node
	conn  *grpc.ClientConn
	lease leases.Lease // what images and containers would keep
}

const content = "which" // the file that tells a volume from a plain directory

func newBed(t *testing.T, version string) *bed {
	t.Helper()
	b := &bed{node: node.Run(t, node.Options{Containerd: version})}
	var err error
	b.conn, err = grpc.NewClient("unix://"+b.node.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close() })
	b.restart(t)
	if b.lease, err = b.newLease(b.context(t.Context()), leaseLife); err != nil {
		t.Fatal(err)
	}
	return b
}

// restart replaces the Grafter by one that knows nothing.
func (b *bed) restart(t *testing.T) {
	t.Helper()
	b.Grafter = New(Options{
		Conn: b.conn, Namespace: "k8s.io", Snapshotter: "overlayfs",
		VolumesDir: filepath.Join(b.node.Dir(), "volumes"), Log: zaptest.NewLogger(t),
	})
}

// leased returns a context in which what is made survives garbage collection.
func (b *bed) leased(t *testing.T) context.Context {
	t.Helper()
	return leases.WithLease(b.context(t.Context()), b.lease.ID)
}

// mountVolume mounts a volume of that name.
func (b *bed) mountVolume(t *testing.T, name string) {
	t.Helper()
	root := filepath.Join(b.volumes, name, "root")
	err := os.MkdirAll(root, 0o755)
	if err == nil {
		err = unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(root, content), []byte("volume "+name), 0o644)
	}
	if err == nil {
		err = unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// graftVolume mounts a volume and grafts it under a chain of that name.
func (b *bed) graftVolume(t *testing.T, name string) Graft {
	t.Helper()
	b.mountVolume(t, name)
	pull, err := b.Begin(t.Context(), []digest.Digest{chain(name)})
	if err != nil {
		t.Fatal(err)
	}
	defer pull.End(t.Context())
	if err := pull.Graft(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	b.hold(t, name)
	graft, err := b.find(t.Context(), chain(name))
	if err != nil {
		t.Fatal(err)
	}
	return graft
}

func (b *bed) resource(name string) leases.Resource {
	return leases.Resource{ID: chain(name).String(), Type: b.resources}
}

// hold keeps a chain as an image would.
func (b *bed) hold(t *testing.T, name string) {
	t.Helper()
	if err := b.leases.AddResource(b.context(t.Context()), b.lease, b.resource(name)); err != nil {
		t.Fatal(err)
	}
}

// removeImage makes the chain garbage.
func (b *bed) removeImage(t *testing.T, name string) {
	t.Helper()
	if err := b.leases.DeleteResource(b.context(t.Context()), b.lease, b.resource(name)); err != nil {
		t.Fatal(err)
	}
}

// container is a snapshot of its own over a chain.
type container struct {
	key, dir string
	mounts   []mount.Mount
}

func (b *bed) container(t *testing.T, key, parent string) container {
	t.Helper()
	mounts, err := b.snapshots.Prepare(b.leased(t), key, chain(parent).String())
	if err != nil {
		t.Fatal(err)
	}
	return container{key, t.TempDir(), mounts}
}

// start mounts the container's root.
func (c container) start(t *testing.T) {
	t.Helper()
	if err := mount.All(c.mounts, c.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.UnmountAll(c.dir, 0) }) // of a test that failed
}

func (c container) expect(t *testing.T, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(c.dir, content))
	if err != nil || string(got) != want {
		t.Errorf("container %s reads %q, %v; want %q", c.key, got, err, want)
	}
}

func (b *bed) remove(t *testing.T, c container) {
	t.Helper()
	if err := mount.UnmountAll(c.dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.snapshots.Remove(b.context(t.Context()), c.key); err != nil {
		t.Fatal(err)
	}
}

// fillPlain makes a plain directory.
func fillPlain(_ context.Context, dir string) error {
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, content), []byte("plain"), 0o644)
	}
	return errors.Join(err, os.WriteFile(dir+".scratch", nil, 0o600))
}

func (b *bed) expectState(t *testing.T, name string, want State) {
	t.Helper()
	if got, err := b.State(t.Context(), chain(name)); err != nil || got != want {
		t.Errorf("state of %s is %d, %v; want %d", name, got, err, want)
	}
}

func (b *bed) expectWanted(t *testing.T, want ...string) {
	t.Helper()
	got, err := b.Wanted(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("wanted volumes (-want +got):\n%s", diff)
	}
}

// expectGraft fails the test unless the graft is as it was made.
func (b *bed) expectGraft(t *testing.T, graft Graft) {
	t.Helper()
	where := place{graft.Directory}
	if now, err := b.find(t.Context(), graft.Chain); err != nil || now != graft {
		t.Errorf("graft is %+v, %v; was %+v", now, err, graft)
	}
	if !where.isGraft() || !where.shows(filepath.Join(b.volumes, graft.Volume)) {
		t.Errorf("%s does not show the volume", where.fs())
	}
	expectNames(t, graft.Directory, "fs", "lazy", "work")
}

// expectPlain fails the test unless a plain directory has replaced the graft and
// nothing else is left of it.
func (b *bed) expectPlain(t *testing.T, graft Graft) {
	t.Helper()
	info, err := b.snapshots.Stat(b.context(t.Context()), graft.Chain.String())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{labelMaterialised: graft.Volume, labelDirectory: graft.Directory}
	if diff := cmp.Diff(want, info.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if got, err := os.ReadFile(filepath.Join(graft.Directory, "fs", content)); err != nil || string(got) != "plain" {
		t.Errorf("directory holds %q, %v", got, err)
	}
	expectNames(t, graft.Directory, "fs", "work")
	expectNames(t, filepath.Join(graft.Directory, "fs"), content)
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("%s holds (-want +got):\n%s", dir, diff)
	}
}

// expectCollected fails the test unless containerd has no such chain any more,
// nor its directory anything in it.
func (b *bed) expectCollected(t *testing.T, graft Graft) {
	t.Helper()
	if _, err := b.snapshots.Stat(b.context(t.Context()), graft.Chain.String()); !errdefs.IsNotFound(err) {
		t.Errorf("chain is still there: %v", err)
	}
	if _, err := os.Lstat(graft.Directory); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", graft.Directory, err)
	}
}

func mountedAll(string) bool { return true }
