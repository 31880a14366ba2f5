package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/tools"
)

// Versions of containerd that `make tools` provides, the current one first.
const (
	Containerd    = "2.4.2"
	ContainerdOld = "1.7.35"
)

// Options say how a node differs from a stock one. The zero value is usable.
type Options struct {
	Containerd string // version; Containerd when empty
	Base       string // folder below which the node's own folder is made; DefaultBase when empty

	// PauseRef is the sandbox image, pulled from its registry by containerd.
	// When empty a pause image is imported from a file, so that no registry
	// sees requests for it and pods work while the registry is down.
	PauseRef string

	// Config is TOML added to containerd's configuration, in the form of the
	// chosen version. It must not repeat a table that the node itself writes.
	Config string

	// Snapshotter names a proxy snapshotter for all of CRI's images, in place of
	// overlayfs; StartSnapshotter runs it. Not with containerd 1.7.
	Snapshotter string

	// Env is added to containerd's environment ("KEY=value").
	Env []string

	// Bin is a folder with containerd, its shim and ctr, in place of the one
	// `make tools` builds for the version.
	Bin string
}

// Node is a running containerd with everything that belongs to it. Its methods
// are not safe for concurrent use; the clients it hands out are.
type Node struct {
	opts  Options
	bin   string
	dir   string
	lease *os.File // held lock: the owner lives
	proc  *process
	cri   *Client
}

// Start makes a node and returns once its CRI answers and is ready to run pods.
// Remains of nodes below the same base whose owners have died are swept first.
// The caller must Stop the node.
func Start(ctx context.Context, opts Options) (*Node, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start node: needs root")
	}
	if opts.Containerd == "" {
		opts.Containerd = Containerd
	}
	if opts.Base == "" {
		opts.Base = DefaultBase
	}
	if opts.Bin == "" {
		bin, err := tools.Containerd(ctx, opts.Containerd)
		if err != nil {
			return nil, err
		}
		opts.Bin = bin
	}
	if err := Sweep(opts.Base); err != nil {
		return nil, fmt.Errorf("sweep %s: %w", opts.Base, err)
	}
	dir, lease, err := claim(opts.Base)
	if err != nil {
		return nil, err
	}
	n := &Node{opts: opts, bin: opts.Bin, dir: dir, lease: lease}
	if err := n.boot(ctx); err != nil {
		err = fmt.Errorf("start node with containerd %s: %w\n%s", opts.Containerd, err, tail(n.Log(), 40))
		return nil, errors.Join(err, n.Stop()) //nolint:contextcheck // cleans up even when ctx is done
	}
	return n, nil
}

func (n *Node) boot(ctx context.Context) error {
	pause := n.opts.PauseRef
	if pause == "" {
		pause = pauseRef
	}
	if err := n.writeFiles(pause); err != nil {
		return err
	}
	if err := n.launch(ctx); err != nil {
		return err
	}
	if n.opts.PauseRef == "" {
		return n.importPause(ctx)
	}
	return nil
}

// launch runs containerd and waits until its CRI is ready.
func (n *Node) launch(ctx context.Context) error {
	env := append(processEnv(n.dir, "PATH="+n.bin+":"+os.Getenv("PATH")), n.opts.Env...)
	proc, err := startProcess(n.path("containerd.log"), env, filepath.Join(n.bin, "containerd"), "--config", n.path("config.toml"))
	if err != nil {
		return err
	}
	n.proc = proc
	n.cri, err = Dial(n.Socket(), "", n.path("pods"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return proc.until(ctx, "CRI is ready", n.cri.ready)
}

// Dir is the node's own folder: short, unique, removed by Stop. Whatever is put
// below it (a daemon's state, mounts) is cleaned up with the node.
func (n *Node) Dir() string { return n.dir }

// Socket is containerd's socket: CRI and its own API.
func (n *Node) Socket() string { return n.path("containerd.sock") }

// Root is containerd's root folder, with content store and snapshots.
func (n *Node) Root() string { return n.path("root") }

// State is containerd's state folder.
func (n *Node) State() string { return n.path("state") }

// RootFS is where the root file system of a running container is mounted.
func (n *Node) RootFS(c *Container) string {
	return filepath.Join(n.State(), "io.containerd.runtime.v2.task", "k8s.io", c.ID, "rootfs")
}

// CertsDir is the registry host configuration that containerd reads.
func (n *Node) CertsDir() string { return n.path("certs.d") }

// Snapshots is the folder of the overlayfs snapshotter.
func (n *Node) Snapshots() string {
	return filepath.Join(n.Root(), "io.containerd.snapshotter.v1.overlayfs")
}

// Version is the containerd version that runs.
func (n *Node) Version() string { return n.opts.Containerd }

// CRI returns the client that talks to containerd directly, for both services.
func (n *Node) CRI() *Client { return n.cri }

// Through returns a client like a kubelet that is configured with another image
// socket: image calls go there, runtime calls to containerd. The caller closes it.
func (n *Node) Through(imageSocket string) (*Client, error) {
	return Dial(n.Socket(), imageSocket, n.path("pods"))
}

// Log returns what containerd has logged so far, over all restarts.
func (n *Node) Log() string { return readLog(n.path("containerd.log")) }

// Restart ends containerd with SIGTERM, as an upgrade does, and starts it again
// on the same state. Containers keep running. CRI() returns a new client afterwards.
func (n *Node) Restart(ctx context.Context) error {
	n.cri.Close()
	if err := n.proc.stop(unix.SIGTERM, 20*time.Second); err != nil {
		return fmt.Errorf("restart containerd: %w", err)
	}
	return n.launch(ctx)
}

// Kill ends containerd with SIGKILL and waits until it is gone. Containers keep
// running. Resume starts it again.
func (n *Node) Kill() error {
	n.cri.Close()
	return n.proc.stop(unix.SIGKILL, 20*time.Second)
}

// Resume starts containerd again after Kill.
func (n *Node) Resume(ctx context.Context) error { return n.launch(ctx) }

// Stop removes pods, ends containerd and everything else that runs for the
// node, unmounts what is mounted below its folder and removes the folder. It
// works in any state of the node and may be called again.
func (n *Node) Stop() error {
	if n.lease == nil {
		return nil
	}
	if n.cri != nil && n.proc.alive() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_ = n.cri.removeAllPods(ctx) // what resists is killed below
		cancel()
	}
	if n.cri != nil {
		n.cri.Close()
	}
	if n.proc != nil {
		_ = n.proc.stop(unix.SIGTERM, 10*time.Second) // else killed by sweepNode
	}
	err := sweepNode(n.dir)
	n.lease.Close()
	n.lease = nil
	return err
}

func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}
