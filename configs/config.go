package configs

import (
	"path/filepath"
	"strings"
	"time"
)

// Version is the only value of the key "version" this package understands.
const Version = 1

// Config is the whole configuration of a node. The zero value is not useful:
// begin with [Default] or [Load].
type Config struct {
	Version int    `toml:"version"`
	Root    string `toml:"root"`  // durable data: journal, volumes, cache
	State   string `toml:"state"` // gone after a reboot: sockets, mounts

	// Disabled lists patterns of references for which nothing is prepared.
	// "*" stands for any run of characters without a slash, "**" for any run.
	// A pattern without a tag or digest means all of them.
	Disabled []string `toml:"disabled"`

	CRI        CRI        `toml:"cri"`
	Containerd Containerd `toml:"containerd"`
	Registry   Registry   `toml:"registry"`
	Pull       Pull       `toml:"pull"`
	Cache      Cache      `toml:"cache"`
	Reads      Reads      `toml:"reads"`
	Trace      Trace      `toml:"trace"`
	Completion Completion `toml:"completion"`
	Attach     Attach     `toml:"attach"`
	Breaker    Breaker    `toml:"breaker"`
	Metrics    Metrics    `toml:"metrics"`
	Log        Log        `toml:"log"`

	Policy []Policy `toml:"policy,omitempty"`
	Trust  []Trust  `toml:"trust,omitempty"`
}

// CRI says where the kubelet finds Referee and where Referee finds containerd's CRI.
type CRI struct {
	Socket  string `toml:"socket"`
	Backend string `toml:"backend"`
}

// Containerd is containerd's own API: images, snapshots, leases.
type Containerd struct {
	Address   string `toml:"address"` // "": the same socket as cri.backend
	Namespace string `toml:"namespace"`

	// The plugin io.containerd.image-verifier.v1.bindir, which is asked before a
	// form of an image is used. Its settings are containerd's, repeated here.
	ImageVerifierDir     string   `toml:"image_verifier_dir"`     // bin_dir; "": none is asked
	ImageVerifierTimeout Duration `toml:"image_verifier_timeout"` // per_verifier_timeout
	ImageVerifierMax     int      `toml:"image_verifier_max"`     // max_verifiers; -1: no limit
}

// Registry says how registries are reached.
type Registry struct {
	ConfigPath   string `toml:"config_path"`   // colon list of containerd's certs.d trees
	DockerConfig string `toml:"docker_config"` // "": none

	// The kubelet's credential provider plugins; both or none.
	CredentialProviderConfig  string   `toml:"credential_provider_config"`  // file, or directory of files
	CredentialProviderBinDir  string   `toml:"credential_provider_bin_dir"` // directory
	CredentialProviderTimeout Duration `toml:"credential_provider_timeout"` // for one run of a plugin
}

// Pull bounds what one pull may spend before it is forwarded.
type Pull struct {
	NegotiateTimeout Duration `toml:"negotiate_timeout"`
	AttachTimeout    Duration `toml:"attach_timeout"`
	NodeTimeout      Duration `toml:"node_timeout"`
	RecheckAfter     Duration `toml:"recheck_after"`
}

// Cache is the store of fetched bytes.
type Cache struct {
	Dir     string `toml:"dir"` // "": root/cache
	MaxSize Size   `toml:"max_size"`
}

// Reads bounds reads of attached volumes.
type Reads struct {
	GiveUpAfter Duration `toml:"give_up_after"`
}

// Trace says what is done about what the first starts of a form read.
type Trace struct {
	Record bool `toml:"record"` // it is remembered
	Replay bool `toml:"replay"` // it is fetched when the form is attached again
	Find   bool `toml:"find"`   // what other nodes recorded is looked for in the registry
}

// Completion says how what nobody has read of attached forms is fetched.
type Completion struct {
	Enabled bool     `toml:"enabled"`
	Rate    Size     `toml:"rate"`  // a second, for the whole node
	Delay   Duration `toml:"delay"` // since a reader last waited for the registry
	// SpareDisk is the share of the cache's file system that is left free.
	SpareDisk Percent `toml:"spare_disk"`
	// Settle has whole forms copied, decoded, to files that the kernel mounts itself.
	Settle bool `toml:"settle"`
}

// Attach chooses how a volume becomes a mount.
type Attach struct {
	Driver string `toml:"driver"`
}

// Breaker says when a registry or format is left alone for a while.
type Breaker struct {
	Failures int      `toml:"failures"`
	OpenFor  Duration `toml:"open_for"`
}

// Metrics says where Prometheus and health checks ask.
type Metrics struct {
	Address string `toml:"address"` // host and port; "": nowhere
}

// Log is what the daemon writes to standard error.
type Log struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// Default returns the configuration of a node without a config.toml.
func Default() *Config {
	return &Config{
		Version:  Version,
		Root:     "/var/lib/referee",
		State:    "/run/referee",
		Disabled: []string{},
		CRI:      CRI{Socket: "/run/referee/cri.sock", Backend: "/run/containerd/containerd.sock"},
		Containerd: Containerd{
			Namespace:            "k8s.io",
			ImageVerifierDir:     "/opt/containerd/image-verifier/bin",
			ImageVerifierTimeout: Duration{10 * time.Second},
			ImageVerifierMax:     10,
		},
		Registry: Registry{
			ConfigPath:                "/etc/containerd/certs.d:/etc/docker/certs.d",
			CredentialProviderTimeout: Duration{10 * time.Second},
		},
		Pull: Pull{
			NegotiateTimeout: Duration{3 * time.Second},
			AttachTimeout:    Duration{10 * time.Second},
			NodeTimeout:      Duration{2 * time.Second},
			RecheckAfter:     Duration{5 * time.Minute},
		},
		Cache:      Cache{MaxSize: Size{20 * GiB}},
		Reads:      Reads{GiveUpAfter: Duration{time.Minute}},
		Trace:      Trace{Record: true, Replay: true, Find: true},
		Completion: Completion{Enabled: true, Rate: Size{8 * MiB}, Delay: Duration{30 * time.Second}, SpareDisk: Percent{15}, Settle: true},
		Attach:     Attach{Driver: "auto"},
		Breaker:    Breaker{Failures: 3, OpenFor: Duration{30 * time.Second}},
		Log:        Log{Level: "info", Format: "json"},
	}
}

// ContainerdAddress is the socket of containerd's own API.
func (c *Config) ContainerdAddress() string {
	if c.Containerd.Address == "" {
		return c.CRI.Backend
	}
	return c.Containerd.Address
}

// CacheDir is the directory of the cache.
func (c *Config) CacheDir() string {
	if c.Cache.Dir == "" {
		return filepath.Join(c.Root, "cache")
	}
	return c.Cache.Dir
}

// HostDirs are the trees of registry.config_path, in order of preference.
func (c *Config) HostDirs() []string {
	return strings.FieldsFunc(c.Registry.ConfigPath, func(r rune) bool { return r == filepath.ListSeparator })
}
