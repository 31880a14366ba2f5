package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	hostconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/dustin/go-humanize"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/internal/install"
	"github.com/referee-cri/referee/negotiate/policy"
)

// configuration repeats what `referee config check` finds.
func (n *Node) configuration(context.Context) []Finding {
	var found []Finding
	for _, p := range n.Problems {
		text := p.Problem
		if p.Key != "" {
			text = p.Key + ": " + text
		}
		if p.Severity == policy.Error {
			found = append(found, bad(text, "the daemon does not start with it, or trusts nobody there", "correct it; referee config check repeats this"))
		} else {
			found = append(found, degraded(text, "it may not do what it says", "correct it; referee config check repeats this"))
		}
	}
	if len(found) == 0 {
		return []Finding{good("%s, %s", counted(len(n.Config.Policy), "policy block"), counted(len(n.Config.Trust), "trust store"))}
	}
	return found
}

// kubelet looks at where the kubelet is sent for images.
func (n *Node) kubelet(context.Context) []Finding {
	k, err := install.FindKubelet(n.Root)
	if err != nil {
		return []Finding{degraded(err.Error(), "where the kubelet pulls is unknown", "correct that file")}
	}
	ours := "unix://" + n.Config.CRI.Socket
	const remedy = "referee install"
	var found []Finding
	switch {
	case !k.Found:
		return []Finding{degraded("there is no kubelet's file here", "who pulls through Referee is unknown", "send whoever pulls to "+ours)}
	case k.ImageEndpoint == "":
		found = append(found, degraded("its images go where its containers go", "pulls do not pass through Referee and are ordinary", remedy))
	case k.ImageEndpoint != ours && k.ImageEndpoint != n.Config.CRI.Socket:
		found = append(found, degraded(fmt.Sprintf("%s sends it to %s", k.EndpointFile, k.ImageEndpoint), "pulls do not pass through this Referee", remedy))
	default:
		found = append(found, good("%s sends it to %s", k.EndpointFile, k.ImageEndpoint))
	}
	if runtime := strings.TrimPrefix(k.RuntimeEndpoint, "unix://"); runtime != "" && !sameFile(runtime, n.Config.CRI.Backend) {
		found = append(found, bad(fmt.Sprintf("its containers are made at %s, Referee forwards to %s", runtime, n.Config.CRI.Backend),
			"what one pulls the other does not have", "set cri.backend = \""+runtime+"\""))
	}
	return found
}

// sameFile tells whether two paths name one socket (/var/run is a link to /run).
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}

// credentials compares the kubelet's plugins with those that are configured.
func (n *Node) credentials(context.Context) []Finding {
	r := n.Config.Registry
	if r.CredentialProviderConfig != "" {
		err := credentialprovider.Check(credentialprovider.Options{Config: r.CredentialProviderConfig, BinDir: r.CredentialProviderBinDir})
		if err != nil {
			return []Finding{degraded(err.Error(), "private images wait for their next pull when the daemon was started again", "correct registry.credential_provider_config")}
		}
		return []Finding{good("the kubelet's plugins of %s", r.CredentialProviderConfig)}
	}
	if k, err := install.FindKubelet(n.Root); err == nil && k.CredentialProviderConfig != "" {
		return []Finding{degraded("the kubelet has credential provider plugins, Referee is not told of them",
			"private images wait for their next pull when the daemon was started again",
			fmt.Sprintf("set registry.credential_provider_config = %q and credential_provider_bin_dir = %q", k.CredentialProviderConfig, k.CredentialProviderBinDir))}
	}
	if r.DockerConfig != "" {
		if _, err := os.Stat(r.DockerConfig); err != nil {
			return []Finding{degraded(err.Error(), "no credentials come from there", "correct registry.docker_config")}
		}
	}
	return []Finding{good("those that pulls bring")}
}

// registryHosts reads every host's configuration as containerd does.
func (n *Node) registryHosts(ctx context.Context) []Finding {
	var found []Finding
	hosts := 0
	for _, tree := range n.Config.HostDirs() {
		entries, err := os.ReadDir(tree)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, bad(err.Error(), "mirrors and certificates are not known", "correct registry.config_path"))
		}
		for _, entry := range entries {
			if !entry.IsDir() {
				continue
			}
			hosts++
			dir := filepath.Join(tree, entry.Name())
			if err := readHost(ctx, dir); err != nil {
				found = append(found, bad(fmt.Sprintf("%s: %v", dir, err), "its mirrors and certificates are not used, by Referee as by containerd", "correct its hosts.toml"))
			}
		}
	}
	if len(found) == 0 {
		return []Finding{good("%s configured in %s", counted(hosts, "host"), n.Config.Registry.ConfigPath)}
	}
	return found
}

// readHost reads a host's directory. containerd passes over a file that is no TOML.
func readHost(ctx context.Context, dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var keys map[string]any
	if err := toml.Unmarshal(text, &keys); err != nil {
		return err
	}
	options := hostconfig.HostOptions{HostDir: func(string) (string, error) { return dir, nil }}
	_, err = hostconfig.ConfigureHosts(ctx, options)(strings.Trim(filepath.Base(dir), "_"))
	return err
}

// disk compares what is free with what the cache may take.
func (n *Node) disk(context.Context) []Finding {
	dir := existing(n.Config.CacheDir())
	var system unix.Statfs_t
	if err := unix.Statfs(dir, &system); err != nil {
		return []Finding{bad(fmt.Sprintf("%s: %v", dir, err), "nothing can be cached", "correct cache.dir")}
	}
	free := int64(system.Bavail) * system.Bsize
	limit := n.Config.Cache.MaxSize.Bytes
	const leave = 10 // percent that a kubelet wants free at least, by its default evictionHard (nodefs.available)
	total := int64(system.Blocks) * system.Bsize
	switch {
	case free*100 < total*leave:
		return []Finding{degraded(fmt.Sprintf("%s has %s of %s free", dir, size(free), size(total)), "the kubelet evicts pods and images at this level", "free some space, or lower cache.max_size")}
	case limit > total*(100-leave)/100:
		return []Finding{degraded(fmt.Sprintf("the cache may grow to %s on a file system of %s", size(limit), size(total)), "the kubelet evicts pods and images before the cache is full", "lower cache.max_size")}
	}
	return []Finding{good("%s has %s free, the cache may take %s", dir, size(free), size(limit))}
}

// existing is the nearest of path and those above it that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
