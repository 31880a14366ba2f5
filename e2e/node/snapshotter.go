package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A proxy snapshotter serves every image of its node, the sandbox's included.
// The list of unpackers is whole, because one that names only the proxy would
// take overlayfs' place, into which the pause image is imported.
const proxyConfig = `[plugins.'io.containerd.cri.v1.images']
  snapshotter = "{name}"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "overlayfs"
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "{name}"
[proxy_plugins.{name}]
  type = "snapshot"
  address = "{dir}/{name}.sock"
  [proxy_plugins.{name}.exports]
    root = "{dir}/{name}"
    enable_remote_snapshot_annotations = "true"
`

// SnapshotterOptions say how to run a proxy snapshotter.
type SnapshotterOptions struct {
	Binary string // run as `BINARY serve ROOT SOCKET CONFIG`
	Config string // text of its configuration file
}

// Snapshotter is a proxy snapshotter as a subprocess. Its methods are not safe
// for concurrent use.
type Snapshotter struct {
	opts SnapshotterOptions
	node *Node
	proc *process
}

// StartSnapshotter runs the proxy snapshotter that Options.Snapshotter names and
// returns once its socket accepts connections. Node.Stop ends it too, and removes
// its mounts and its state.
func (n *Node) StartSnapshotter(ctx context.Context, opts SnapshotterOptions) (*Snapshotter, error) {
	if n.opts.Snapshotter == "" {
		return nil, errors.New("start snapshotter: the node was started without one")
	}
	s := &Snapshotter{opts: opts, node: n}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Start runs the snapshotter again after Stop, on what it has kept.
func (s *Snapshotter) Start(ctx context.Context) error {
	name := s.node.opts.Snapshotter
	config, socket := s.node.path(name+".toml"), s.node.path(name+".sock")
	if err := os.WriteFile(config, []byte(s.opts.Config), 0o600); err != nil {
		return fmt.Errorf("write configuration of %s: %w", name, err)
	}
	proc, err := startProcess(s.log(), processEnv(s.node.dir), s.opts.Binary, "serve", s.Root(), socket, config)
	if err != nil {
		return err
	}
	s.proc = proc
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = proc.until(ctx, name+" answers", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w\n%s", name, err, tail(s.Log(), 40)), proc.stop(unix.SIGKILL, 10*time.Second))
	}
	return nil
}

// Root is the snapshotter's folder, where it keeps snapshots, mounts and caches.
func (s *Snapshotter) Root() string { return s.node.path(s.node.opts.Snapshotter) }

// Reconfigure changes the configuration for the next Start.
func (s *Snapshotter) Reconfigure(config string) { s.opts.Config = config }

// Stop ends the snapshotter with SIGTERM. Reads of what it has mounted fail from
// then on.
func (s *Snapshotter) Stop() error { return s.proc.stop(unix.SIGTERM, 30*time.Second) }

// Log returns what the snapshotter has logged so far, over all starts.
func (s *Snapshotter) Log() string { return readLog(s.log()) }

func (s *Snapshotter) log() string { return s.node.path(s.node.opts.Snapshotter + ".log") }

// proxied is the configuration of a node with a proxy snapshotter of that name.
func proxied(dir, name string) string {
	return strings.NewReplacer("{dir}", dir, "{name}", name).Replace(proxyConfig)
}
