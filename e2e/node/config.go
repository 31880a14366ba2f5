package node

import (
	"fmt"
	"os"
	"strings"
)

// The configuration is stock except for folders, and for what a machine without
// a kubelet and with several nodes side by side needs: oom_score_adj restricted
// (runc may not lower it here), a pause image of our own, CNI plugins where
// Debian puts them, no socket outside the node's folder.
const configV3 = `version = 3
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{dir}/certs.d"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{dir}/cni"
[plugins.'io.containerd.nri.v1.nri']
  socket_path = "{dir}/nri.sock"
[plugins.'io.containerd.internal.v1.opt']
  path = "{dir}/opt"
`

// containerd 1.7 knows only version 2 of the configuration.
const configV2 = `version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
[plugins.'io.containerd.grpc.v1.cri'.registry]
  config_path = "{dir}/certs.d"
[plugins.'io.containerd.grpc.v1.cri'.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{dir}/cni"
[plugins.'io.containerd.internal.v1.opt']
  path = "{dir}/opt"
`

// CRI reports the network as ready once it finds any network list; host-network
// pods never use it.
const cniLoopback = `{"cniVersion": "1.0.0", "name": "loopback", "plugins": [{"type": "loopback"}]}
`

func (n *Node) writeFiles(pause string) error {
	config := configV3
	if strings.HasPrefix(n.opts.Containerd, "1.") {
		config = configV2
	}
	config = strings.NewReplacer("{dir}", n.dir, "{pause}", pause).Replace(config) + n.opts.Config
	if n.opts.Snapshotter != "" {
		config += proxied(n.dir, n.opts.Snapshotter)
	}
	for _, dir := range []string{"root", "state", "certs.d", "cni", "pods"} {
		if err := os.Mkdir(n.path(dir), 0o755); err != nil {
			return fmt.Errorf("make node folder: %w", err)
		}
	}
	if err := os.WriteFile(n.path("config.toml"), []byte(config), 0o644); err != nil {
		return fmt.Errorf("write containerd configuration: %w", err)
	}
	if err := os.WriteFile(n.path("cni", "10-loopback.conflist"), []byte(cniLoopback), 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return nil
}
