package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The plugins of containerd that decide how it pulls.
const (
	transferPlugin = "io.containerd.transfer.v1"
	verifierPlugin = "io.containerd.image-verifier.v1"
)

// containerd asks who answers at the socket.
func (n *Node) containerd(ctx context.Context) []Finding {
	version, err := runtime.NewRuntimeServiceClient(n.Backend).Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return []Finding{bad(fmt.Sprintf("no CRI at %s: %s", n.Config.CRI.Backend, plain(err)), "there is nobody to forward calls to", "start containerd, or correct cri.backend")}
	}
	name, number := version.GetRuntimeName(), strings.TrimPrefix(version.GetRuntimeVersion(), "v")
	if name != "containerd" {
		return []Finding{bad(fmt.Sprintf("%s %s answers", name, number), "only containerd's snapshots can be grafted: every pull is ordinary", "use containerd 1.7 or 2")}
	}
	var major, minor int
	if _, err := fmt.Sscanf(number, "%d.%d", &major, &minor); err != nil {
		return []Finding{degraded("containerd calls its version "+number, "whether it is one that is known to work cannot be told", "use containerd 1.7 or 2")}
	}
	if major < 1 || major == 1 && minor < 7 {
		return []Finding{bad("containerd is "+number, "grafts are known to work from 1.7 on", "upgrade containerd")}
	}
	return []Finding{good("containerd %s at %s", number, n.Config.CRI.Backend)}
}

// pullPath tells how containerd itself pulls, and whether its plugins that do are whole.
func (n *Node) pullPath(ctx context.Context) []Finding {
	plugins, err := n.plugins(ctx, transferPlugin)
	if err != nil {
		return []Finding{degraded("containerd's plugins cannot be listed: "+plain(err), "", "correct containerd.address")}
	}
	for _, p := range plugins {
		if p.GetInitErr() != nil {
			return []Finding{bad(fmt.Sprintf("containerd's plugin %s.%s does not run: %s", p.GetType(), p.GetID(), p.GetInitErr().GetMessage()),
				"CRI may not be able to pull at all", "see containerd's log")}
		}
	}
	if len(plugins) == 0 {
		return []Finding{good("containerd pulls by itself, without a transfer service")}
	}
	return []Finding{good("containerd has a transfer service; grafts work with it and without")}
}

func (n *Node) plugins(ctx context.Context, kind string) ([]*introspection.Plugin, error) {
	all, err := introspection.NewIntrospectionClient(n.Containerd).Plugins(ctx, &introspection.PluginsRequest{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all.GetPlugins(), func(p *introspection.Plugin) bool { return p.GetType() != kind }), nil
}

// snapshotter tries a graft's steps on a snapshot of its own.
func (n *Node) snapshotter(ctx context.Context) []Finding {
	if err := n.Snapshotter(ctx); err != nil {
		return []Finding{bad(plain(err), "every pull is ordinary (reason snapshotter-mismatch)",
			"have containerd's CRI use the overlayfs snapshotter, and run Referee where containerd's root is seen at the same path")}
	}
	return []Finding{good("CRI keeps images in the overlayfs snapshotter, whose directories can be exchanged")}
}

// imageVerifiers compares who is asked here with whom containerd asks.
func (n *Node) imageVerifiers(ctx context.Context) []Finding {
	programs := executables(n.Config.Containerd.ImageVerifierDir)
	plugins, err := n.plugins(ctx, verifierPlugin)
	switch {
	case len(programs) == 0 && (err != nil || len(plugins) == 0):
		return []Finding{good("none")}
	case len(programs) == 0:
		return []Finding{good("containerd would ask verifiers; there are none in %q", n.Config.Containerd.ImageVerifierDir)}
	case err == nil && len(plugins) == 0:
		return []Finding{degraded(fmt.Sprintf("%s in %s", counted(len(programs), "program"), n.Config.Containerd.ImageVerifierDir),
			"Referee asks them before it attaches a form; this containerd never asks them", "use containerd 2 where they must decide about ordinary pulls, too")}
	default:
		return []Finding{good("%s in %s are asked", counted(len(programs), "program"), n.Config.Containerd.ImageVerifierDir)}
	}
}

func executables(dir string) []string {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if info, err := os.Stat(filepath.Join(dir, entry.Name())); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, entry.Name())
		}
	}
	return names
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// plain is an error of a gRPC call without what only programs read.
func plain(err error) string {
	if s, is := status.FromError(err); is && s != nil {
		return s.Message()
	}
	return err.Error()
}
