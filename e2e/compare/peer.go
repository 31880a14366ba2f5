package compare

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
)

// Versions of the other projects' snapshotters that `make peers` builds.
const (
	StargzVersion = "0.19.1"
	SOCIVersion   = "0.16.1"
)

// Peers are the ways to pull through another project's snapshotter.
func Peers() []Way { return []Way{Stargz, SOCI} }

// peer is a node all of whose images another project's snapshotter serves.
type peer struct {
	node        *node.Node
	client      *node.Client
	snapshotter *node.Snapshotter
}

// peerCaches are the folders, and the file, below the root of a snapshotter where
// it keeps what it has fetched and derived from that.
var peerCaches = map[Way][]string{ //nolint:gochecknoglobals // a constant table
	Stargz: {"stargz"},
	SOCI:   {"soci", "content", "metadata.db"},
}

// StartPeer starts a node for another project's snapshotter. It must be called
// after AddLink, because SOCI reads its registries when it starts.
func (b *Bed) StartPeer(ctx context.Context, way Way) error {
	binary, err := peerBinary(ctx, way)
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, node.Options{Snapshotter: string(way)})
	if err != nil {
		return fmt.Errorf("start node for %s: %w", way, err)
	}
	p := &peer{node: n, client: n.CRI()}
	b.peers[way] = p
	for _, l := range b.links {
		if err := n.PointHost(l.far, node.Endpoint{URL: "http://" + l.far}); err != nil {
			return err
		}
	}
	p.snapshotter, err = n.StartSnapshotter(ctx, node.SnapshotterOptions{Binary: binary, Config: b.peerConfig(way, n)})
	return err
}

// peerConfig is the configuration as shipped, but for where registries and
// containerd are.
func (b *Bed) peerConfig(way Way, n *node.Node) string {
	if way == Stargz {
		return fmt.Sprintf("[registry]\nconfig_path = %q\n", n.CertsDir())
	}
	var text strings.Builder
	fmt.Fprintf(&text, "[content_store]\ncontainerd_address = %q\n", n.Socket())
	for _, l := range b.links {
		fmt.Fprintf(&text, "[[resolver.host.%q.mirrors]]\nhost = %q\ninsecure = true\n", l.far, "http://"+l.far)
	}
	return text.String()
}

func peerBinary(ctx context.Context, way Way) (string, error) {
	switch way {
	case Stargz:
		return tools.Program(ctx, "stargz", StargzVersion)
	case SOCI:
		return tools.Program(ctx, "soci", SOCIVersion)
	case Ordinary, Tuned, Lazy:
	}
	return "", fmt.Errorf("%s is no peer", way)
}

// ref is the reference under which a way pulls. Peers are given the address: SOCI
// asks for its index at the host of the reference, and not at a mirror of it.
func (w Way) ref(image Image, l Link) string {
	if slices.Contains(Peers(), w) {
		return l.far + "/" + image.Name + ":" + image.Tag
	}
	return image.Ref(l)
}

// chillPeer starts the snapshotter anew, without connections and without what it
// has fetched. No image but the sandbox's may be on its node.
func (b *Bed) chillPeer(ctx context.Context, way Way) error {
	p := b.peers[way]
	if err := p.snapshotter.Stop(); err != nil {
		return err
	}
	for _, name := range peerCaches[way] {
		if err := os.RemoveAll(filepath.Join(p.snapshotter.Root(), name)); err != nil {
			return fmt.Errorf("remove cache of %s: %w", way, err)
		}
	}
	if err := p.snapshotter.Start(ctx); err != nil {
		return err
	}
	_, err := p.client.List(ctx)
	return err
}

// lazyMounts are the mounts of lazy layers of a peer.
func (p *peer) lazyMounts() ([]string, error) {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, p.snapshotter.Root()+"/") || !strings.HasPrefix(m.FSType, "fuse"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	points := make([]string, 0, len(infos))
	for _, info := range infos {
		points = append(points, info.Mountpoint)
	}
	return points, nil
}
