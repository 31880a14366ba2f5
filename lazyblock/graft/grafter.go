package graft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/referee-cri/referee/internal/reason"
)

// Labels of the snapshots made here. They deliberately lack containerd's own
// prefix, whose labels children inherit.
const (
	labelVolume      = "referee-cri.github.io/volume"      // a graft: the volume's ID
	labelDirectory   = "referee-cri.github.io/directory"   // the snapshot's own directory
	labelPlaceholder = "referee-cri.github.io/placeholder" // "true": a link to nothing
	// A plain directory that replaced a graft: the ID of the volume it stood on.
	labelMaterialised = "referee-cri.github.io/materialised"
	// Unpacked by containerd over a graft that has been replaced since: the ID of
	// the volume that stood there. What directories it has from there is not known.
	labelSuspect = "referee-cri.github.io/suspect"
	// A container's own snapshot, perhaps mounted over a graft that has been
	// replaced since: <the volume's ID>@<boot ID>.
	labelReads = "referee-cri.github.io/reads"
)

// How long leases of ours outlive a crash: of a pull, and of a replacement,
// which may fetch a large image over a slow line.
const (
	leaseLife        = time.Hour
	replaceLeaseLife = 24 * time.Hour
)

// Options of a Grafter.
type Options struct {
	Conn        grpc.ClientConnInterface // containerd
	Namespace   string                   // CRI's: "k8s.io"
	Snapshotter string                   // "overlayfs"
	VolumesDir  string                   // <VolumesDir>/<volume>/root is where a volume is mounted
	Log         *zap.Logger
}

// Grafter puts grafts into one snapshotter of one containerd.
type Grafter struct {
	snapshots snapshots.Snapshotter
	resources string // what leases call its snapshots
	leases    leases.Manager
	namespace string
	volumes   string
	log       *zap.Logger
	locks     *chainLocks
	bootID    func() (string, error)

	mu   sync.Mutex          // held while binds are made or reconciled, and grafts replaced
	busy map[string]struct{} // snapshot directories with a bind not committed yet, or a plain directory in the making
	root string              // the snapshotter's snapshots directory, once known
}

// New returns a Grafter. It does not talk to containerd yet.
func New(opts Options) *Grafter {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	return &Grafter{
		resources: "snapshots/" + opts.Snapshotter,
		snapshots: snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(opts.Conn), opts.Snapshotter),
		leases:    leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(opts.Conn)),
		namespace: opts.Namespace,
		volumes:   opts.VolumesDir,
		log:       opts.Log,
		locks:     newChainLocks(),
		busy:      make(map[string]struct{}),
		bootID:    bootID,
	}
}

// Check finds out whether grafts are possible here: it lets containerd prepare a
// snapshot, looks for its directory where containerd says it is, tries the
// exchange that a graft needs, and removes everything again. The error says what
// stands in the way.
func (g *Grafter) Check(ctx context.Context) error {
	ctx = g.context(ctx)
	lease, err := g.newLease(ctx, leaseLife)
	if err != nil {
		return err
	}
	defer func() { _ = g.leases.Delete(ctx, lease) }()
	key, place, err := g.prepare(leases.WithLease(ctx, lease.ID))
	if err != nil {
		return reason.Wrap(reason.SnapshotterMismatch, err)
	}
	defer func() { _ = g.snapshots.Remove(ctx, key) }()
	if err := place.link("nothing"); err != nil {
		return reason.Wrap(reason.SnapshotterMismatch, err)
	}
	g.setRoot(place)
	return nil
}

// State says what stands under a chain ID.
type State int

// The states.
const (
	Absent      State = iota
	Ordinary          // unpacked by containerd
	Grafted           // a volume of ours
	Placeholder       // a link to nothing
)

// State asks containerd what stands under chain.
func (g *Grafter) State(ctx context.Context, chain digest.Digest) (State, error) {
	info, err := g.snapshots.Stat(g.context(ctx), chain.String())
	switch {
	case errdefs.IsNotFound(err):
		return Absent, nil
	case err != nil:
		return Absent, fmt.Errorf("stat snapshot %s: %w", chain, err)
	case info.Labels[labelPlaceholder] != "":
		return Placeholder, nil
	case info.Labels[labelVolume] != "":
		return Grafted, nil
	default:
		return Ordinary, nil
	}
}

// Volume is the volume that chain stands on, "" if it stands on none.
func (g *Grafter) Volume(ctx context.Context, chain digest.Digest) (string, error) {
	info, err := g.snapshots.Stat(g.context(ctx), chain.String())
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("stat snapshot %s: %w", chain, err)
	}
	return info.Labels[labelVolume], nil
}

func (g *Grafter) states(ctx context.Context, chains []digest.Digest) ([]State, error) {
	states := make([]State, len(chains))
	for i, chain := range chains {
		state, err := g.State(ctx, chain)
		if err != nil {
			return nil, err
		}
		states[i] = state
	}
	return states, nil
}

// CollectGarbage makes containerd collect garbage now, and waits for it.
func (g *Grafter) CollectGarbage(ctx context.Context) error {
	ctx = g.context(ctx)
	lease, err := g.newLease(ctx, leaseLife)
	if err != nil {
		return err
	}
	return g.leases.Delete(ctx, lease, leases.SynchronousDelete)
}

func (g *Grafter) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, g.namespace)
}

func (g *Grafter) newLease(ctx context.Context, life time.Duration) (leases.Lease, error) {
	lease, err := g.leases.Create(ctx, leases.WithID("referee-"+uuid.NewString()), leases.WithExpiration(life))
	if err != nil {
		return leases.Lease{}, fmt.Errorf("create lease: %w", err)
	}
	return lease, nil
}

// prepare lets containerd make a new snapshot without parent and returns its key
// and place.
func (g *Grafter) prepare(ctx context.Context) (string, place, error) {
	key := "referee-" + uuid.NewString()
	mounts, err := g.snapshots.Prepare(ctx, key, "")
	if err != nil {
		return "", place{}, fmt.Errorf("prepare snapshot: %w", err)
	}
	where, err := placeOf(mounts)
	if err != nil {
		err = errors.Join(err, g.snapshots.Remove(ctx, key))
		return "", place{}, reason.Wrap(reason.SnapshotterMismatch, err)
	}
	return key, where, nil
}

// placeOf reads the snapshot's directory from the mounts that containerd names.
func placeOf(mounts []mount.Mount) (place, error) {
	if len(mounts) != 1 || mounts[0].Type != "bind" || filepath.Base(mounts[0].Source) != "fs" {
		return place{}, fmt.Errorf("snapshotter names mounts %v, expected one bind mount of a directory fs as overlayfs does", mounts)
	}
	info, err := os.Lstat(mounts[0].Source)
	if err != nil {
		return place{}, fmt.Errorf("snapshot directory is out of reach here: %w", err)
	}
	if !info.IsDir() {
		return place{}, fmt.Errorf("snapshot directory %s: expected a directory, found %s", mounts[0].Source, info.Mode().Type())
	}
	return place{dir: filepath.Dir(mounts[0].Source)}, nil
}

// Root is the directory that holds the snapshots' directories, "" until
// containerd has named one.
func (g *Grafter) Root() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.root
}

func (g *Grafter) setRoot(p place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.root = filepath.Dir(p.dir)
}
