package host_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/internal/treecmp"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/blob"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// bed is a Host with everything real below it: containerd, a registry with the
// reference image and its overlaybd form, FUSE, loop devices.
type bed struct {
	*host.Host

	node     *node.Node
	registry *regtest.Registry
	client   *registry.Client
	conn     *grpc.ClientConn
	volumes  *volume.Manager
	overlay  snapshots.Snapshotter
	log      *zap.Logger
	ref      string // of the image
}

func newBed(t *testing.T) *bed {
	t.Helper()
	layout := filepath.Join(testdata.Dir(t, "reference"), "tiny")
	b := &bed{node: node.Run(t, node.Options{}), registry: regtest.New(t, regtest.Options{}), log: zaptest.NewLogger(t)}
	if _, err := b.registry.LoadLayout("tiny", layout); err != nil {
		t.Fatal(err)
	}
	b.ref = b.registry.Ref("tiny", "tiny")
	b.client = registry.New(registry.Options{HostDirs: []string{t.TempDir()}, DownTime: time.Millisecond, Log: b.log})
	t.Cleanup(func() { _ = b.client.Close() })
	var err error
	b.conn, err = grpc.NewClient("unix://"+b.node.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close() })
	b.overlay = snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(b.conn), "overlayfs")
	b.serve(t)
	b.restart()
	return b
}

// serve makes the volume manager with a driver of its own.
func (b *bed) serve(t *testing.T) {
	t.Helper()
	fuseDir := filepath.Join(b.node.Dir(), "fuse")
	driver, err := attach.NewFUSE(t.Context(), fuseDir, nil, b.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !b.volumes.Empty() {
			t.Error("a volume is still mounted")
		}
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
		if err := attach.Unmount(fuseDir); err != nil {
			t.Error(err)
		}
	})
	b.volumes, err = volume.NewManager(volume.Options{
		Root: filepath.Join(b.node.Dir(), "root-of-referee"), State: filepath.Join(b.node.Dir(), "state-of-referee"),
		Driver: driver, Blobs: blobs{b.client}, Formats: map[string]volume.Opener{"overlaybd": openOverlaybd},
		GiveUpAfter: 10 * time.Second, Log: b.log,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restart replaces what remembers nothing on its own: Host and Grafter.
func (b *bed) restart() {
	grafter := graft.New(graft.Options{Conn: b.conn, Namespace: "k8s.io", Snapshotter: "overlayfs", VolumesDir: b.volumes.Dir(), Log: b.log})
	b.Host = host.New(host.Options{Conn: b.conn, Namespace: "k8s.io", Grafter: grafter, Volumes: b.volumes, Registry: b.client, Log: b.log})
}

// blobs opens blobs without a cache.
type blobs struct{ client *registry.Client }

func (b blobs) Open(repository string, creds registry.Credentials, desc ocispec.Descriptor) (volume.Blob, error) {
	source, err := b.client.Repository(repository, creds)
	if err != nil {
		return nil, err
	}
	return uncached{blob.Open(source, desc, blob.Options{GiveUpAfter: 10 * time.Second})}, nil
}

func (blobs) Remove(string, digest.Digest) error { return nil }

type uncached struct{ *blob.Blob }

func (uncached) Close() error { return nil }

func openOverlaybd(ctx context.Context, form lazyblock.Form) (lazyblock.Volume, error) {
	device, err := overlaybd.Open(ctx, lazyblock.Readers(form.Layers), form.ID)
	if err != nil {
		return lazyblock.Volume{}, err
	}
	return lazyblock.Volume{FSType: "ext4", Primary: device}, nil
}

// image is the reference image's overlaybd form, as negotiation would find it.
func (b *bed) image(t *testing.T, chains []digest.Digest) host.Image {
	t.Helper()
	form := testdata.ReadImage(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny-overlaybd-lz4")
	form.Descriptor.Annotations = nil
	return host.Image{Chains: chains, Volume: volume.Spec{
		Chain:  chains[len(chains)-1], // as Attach will say
		Format: "overlaybd", Repository: b.repository(), Reference: b.ref, Artifact: form.Descriptor, Layers: form.Manifest.Layers,
		Word: json.RawMessage(`{"signer":"somebody"}`),
	}}
}

func (b *bed) repository() string { return b.registry.Host() + "/tiny" }

// pullLazily does what the daemon does for a pull and returns the image.
func (b *bed) pullLazily(t *testing.T) *host.Original {
	t.Helper()
	tiny := testdata.ReadImage(t, filepath.Join(testdata.Dir(t, "reference"), "tiny"), "tiny")
	chains := host.Original{DiffIDs: tiny.Config.RootFS.DiffIDs}.ChainIDs()
	release, _, err := b.Attach(t.Context(), b.image(t, chains), registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := b.node.CRI().Pull(t.Context(), b.ref, nil); err != nil {
		t.Fatal(err)
	}
	image, err := b.Original(t.Context(), b.ref)
	if err != nil || image == nil || image.Repository != b.repository() || len(image.Layers) != len(chains) {
		t.Fatalf("containerd has %+v, %v", image, err)
	}
	return image
}

// container mounts a root over chain as containerd would; stop ends it.
func (b *bed) container(t *testing.T, chain digest.Digest) (root string, stop func()) {
	t.Helper()
	root = t.TempDir()
	key := fmt.Sprintf("container-%s", root)
	ctx := namespaces.WithNamespace(context.WithoutCancel(t.Context()), "k8s.io")
	mounts, err := b.overlay.Prepare(ctx, key, chain.String(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := mount.UnmountAll(root, 0); err != nil {
			t.Error(err)
		}
		if err := b.overlay.Remove(ctx, key); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return root, stop
}

// The reference form's converter changes some metadata (its README lists what).
var converterDiffers = []treecmp.Ignore{
	{Path: "/lost+found", Why: "its mkfs makes it"},
	{Field: treecmp.FieldNsec, Why: "drops nanoseconds"},
	{Path: "/nasty/owners/3000000-3000001", Why: "ignores PAX ids"},
	{Path: "/nasty/time/year-2040", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/time/year-2040-nsec", Field: treecmp.FieldMtime, Why: "wraps in 2038"},
	{Path: "/nasty/xattr/trusted", Field: treecmp.FieldXattrs, Why: "keeps trusted.lab"},
}

// expectTree compares everything that is at root with the reference tree.
func expectTree(t *testing.T, root string, ignores ...treecmp.Ignore) {
	t.Helper()
	ignores = append(ignores, treecmp.Ignore{Path: "/wh/link-a", Field: treecmp.FieldNlink, Why: "overlayfs counts a name that a layer whited out"})
	treecmp.ExpectAt(t, treecmp.Recorded(t, "tiny.tree.jsonl"), root, ignores...)
}

// isMaterialised tells the forms of the image apart by what only its layers say.
func isMaterialised(t *testing.T, root string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(root, "lost+found"))
	return os.IsNotExist(err)
}

// removeImage removes the image and lets the host notice.
func (b *bed) removeImage(t *testing.T) {
	t.Helper()
	if err := b.node.CRI().Remove(t.Context(), b.ref); err != nil {
		t.Fatal(err)
	}
	b.reconcileUntil(t, b.volumes.Empty)
}

func (b *bed) reconcileUntil(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := b.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if done() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the volume is still there")
		}
		select {
		case <-t.Context().Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
