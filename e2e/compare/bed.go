package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/referee-cri/referee/e2e/link"
	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/internal/regtest"
)

// registryDir is where blobs are kept if it exists: memory, because dropping the
// page cache must make the node cold and leave the registry warm.
const registryDir = "/dev/shm"

// Bed is a node with a daemon, and a registry at the far end of links. Its
// methods are not safe for concurrent use.
type Bed struct {
	Node     *node.Node
	Registry *regtest.Registry
	Referee  *node.Referee
	Direct   *node.Client // a kubelet that knows only containerd
	Lazy     *node.Client // a kubelet whose image endpoint is Referee
	Tuned    *node.Client // a kubelet of a second node; nil before StartTuned

	tuned    *node.Node
	peers    map[Way]*peer
	progress io.Writer
	binary   string
	socket   string
	blobs    string
	links    []Link
	port     int
}

// Link is a way to the registry, under a host name of its own.
type Link struct {
	Name     string
	Shape    link.Shape
	Kind     link.Kind
	Measured link.Measurement

	host    string
	far     string
	running *link.Link
}

// Start makes a Bed without links. Progress is for people. The caller must Stop
// the bed.
func Start(ctx context.Context, progress io.Writer) (b *Bed, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a node needs root")
	}
	b = &Bed{progress: progress, port: 16379, peers: map[Way]*peer{}}
	defer func() { //nolint:contextcheck // Stop has to work when ctx has ended
		if err != nil {
			err = errors.Join(err, b.Stop())
		}
	}()
	if b.binary, err = tools.Referee(ctx); err != nil {
		return b, err
	}
	if b.Registry, err = b.startRegistry(); err != nil { //nolint:contextcheck // runs until Stop
		return b, err
	}
	if b.Node, err = node.Start(ctx, node.Options{}); err != nil {
		return b, err
	}
	b.Direct = b.Node.CRI()
	if err := os.WriteFile(b.config(), []byte(b.settings()), 0o600); err != nil {
		return b, fmt.Errorf("write referee configuration: %w", err)
	}
	b.socket = b.path("referee", "cri.sock")
	b.Referee, err = b.Node.StartReferee(ctx, node.RefereeOptions{Binary: b.binary, Socket: b.socket, Config: b.settings()})
	if err != nil {
		return b, err
	}
	b.Lazy, err = b.Referee.Client()
	return b, err
}

func (b *Bed) startRegistry() (*regtest.Registry, error) {
	parent := registryDir
	if _, err := os.Stat(parent); err != nil {
		parent = os.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "referee-registry")
	if err != nil {
		return nil, fmt.Errorf("make registry: %w", err)
	}
	b.blobs = dir
	return regtest.Start(regtest.Options{Dir: dir})
}

// settings are stock but for folders, so that nothing of the machine is touched,
// and for small images, which are to be compared as well.
func (b *Bed) settings() string {
	return fmt.Sprintf(`version = 1
root = %q
state = %q
[cri]
socket = %q
backend = %q
[registry]
config_path = %q
[[policy]]
min_size = "0B"
`, b.path("referee-root"), b.path("referee-state"), b.path("referee", "cri.sock"), b.Node.Socket(), b.Node.CertsDir())
}

func (b *Bed) path(elem ...string) string {
	return filepath.Join(append([]string{b.Node.Dir()}, elem...)...)
}

// config is where the configuration is kept for the command line.
func (b *Bed) config() string { return b.path("referee-cli.toml") }

// tunedPulls makes containerd fetch each layer in parallel pieces. The settings
// are those of its local transfer service, which serves CRI pulls unless
// configured otherwise.
const tunedPulls = `[plugins.'io.containerd.transfer.v1.local']
  max_concurrent_downloads = 10
  concurrent_layer_fetch_buffer = 8388608
`

// StartTuned starts the second node, with containerd's parallel fetch. It must be
// called before AddLink.
func (b *Bed) StartTuned(ctx context.Context) (err error) {
	if b.tuned, err = node.Start(ctx, node.Options{Config: tunedPulls}); err != nil {
		return fmt.Errorf("start tuned node: %w", err)
	}
	b.Tuned = b.tuned.CRI()
	return nil
}

// AddLink makes a way to the registry and measures it.
func (b *Bed) AddLink(ctx context.Context, name string, shape link.Shape) (Link, error) {
	running, err := link.Start(ctx, shape)
	if err != nil {
		return Link{}, err
	}
	l := Link{Name: name, Shape: shape, Kind: running.Kind(), running: running, host: name + ".registry.test"}
	b.links = append(b.links, l)
	if l.Measured, err = running.Measure(ctx); err != nil {
		return l, err
	}
	if l.far, err = running.Forward(b.Registry.Host()); err != nil { //nolint:contextcheck // runs until Stop
		return l, err
	}
	b.links[len(b.links)-1] = l
	for _, n := range b.nodes() {
		if err := n.PointHost(l.host, node.Endpoint{URL: "http://" + l.far}); err != nil {
			return l, err
		}
	}
	return l, nil
}

// nodes are those that run.
func (b *Bed) nodes() []*node.Node {
	all := []*node.Node{b.Node, b.tuned}
	for _, p := range b.peers {
		all = append(all, p.node)
	}
	return slices.DeleteFunc(all, func(n *node.Node) bool { return n == nil })
}

// Command runs the referee binary as a user would and returns what it prints.
func (b *Bed) Command(ctx context.Context, args ...string) (string, error) {
	return runCommand(ctx, b.binary, append([]string{"--config", b.config()}, args...)...)
}

// Stop ends everything and removes it. What is left behind nevertheless is an
// error. It may be called again.
func (b *Bed) Stop() error {
	var errs []error
	for _, c := range []*node.Client{b.Lazy} {
		if c != nil {
			c.Close()
		}
	}
	for _, n := range b.nodes() {
		errs = append(errs, n.Stop())
	}
	for _, l := range b.links {
		errs = append(errs, l.running.Close())
	}
	if b.Registry != nil {
		errs = append(errs, b.Registry.Close())
	}
	if b.blobs != "" {
		errs = append(errs, os.RemoveAll(b.blobs))
	}
	if left := b.leaks(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(left, "; ")))
	}
	return errors.Join(errs...)
}

// leaks lists what is still there: processes, mounts, loop devices, network
// devices, folders.
func (b *Bed) leaks() []string {
	var left []string
	folders := []string{b.blobs}
	for _, n := range b.nodes() {
		left = append(left, node.Leaks(n.Dir())...)
		folders = append(folders, n.Dir())
	}
	for _, folder := range folders {
		if _, err := os.Stat(folder); err == nil {
			left = append(left, "folder "+folder)
		}
	}
	for _, l := range b.links {
		if l.Kind == link.TUN && ownNetwork(l.far) {
			left = append(left, "network device towards "+l.far)
		}
	}
	return left
}

// ownNetwork reports whether a device of this machine is on the address's network.
func ownNetwork(address string) bool {
	far, err := netip.ParseAddrPort(address)
	if err != nil {
		return false // the link never came up
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Contains(far.Addr()) && prefix.Bits() > 0 {
			return true
		}
	}
	return false
}

// poll repeats check until it holds, or ctx ends.
func poll(ctx context.Context, every time.Duration, what string, check func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := check()
		if ok && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}
