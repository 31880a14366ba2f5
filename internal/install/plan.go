package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/referee-cri/referee/configs"
)

// Fixed places on a node.
const (
	Prefix     = "/usr/local"
	ConfigFile = "/etc/referee/config.toml"
	unitDir    = "/etc/systemd/system"
	crictlFile = "/etc/crictl.yaml"

	socketUnit  = "referee.socket"
	serviceUnit = "referee.service"
	kubeletUnit = "kubelet.service"
)

// Options say what to install where.
type Options struct {
	Root    string // the node's file system; "" or "/": this one's
	Binary  []byte // the program
	Running string // its path if it stands on the node itself already, such as a package's
	Version string
	Config  []byte // the configuration, in place of the default; nil: the default
	Prefix  string // bin/referee is put below it; "": Prefix

	Kubelet          bool   // send the kubelet to Referee
	KubeletConfigDir string // its --config-dir, where its flags do not tell
	Crictl           bool   // send crictl there, too
}

// Stage orders changes: who sends calls to the daemon changes after it runs.
type stage int

const (
	daemon stage = iota
	traffic
)

// Change is one path that is to be another than it is.
type Change struct {
	Path          string
	What          string // what it is, in words
	Before, After State
	Setting       *Setting // of a file of others: all that changes

	stage stage
	found State // what stood there before Referee came; Before, but for what an earlier run made
}

// Plan is what is to be done on a node.
type Plan struct {
	Changes []Change
	Notes   []string // what somebody should know, or do
	Config  *configs.Config

	tree   tree
	record *record // of what was done before; nil: nothing
	opts   Options
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// NewPlan compares the node with how it should be. It changes nothing.
func NewPlan(opts Options) (*Plan, error) {
	t, err := absolute(opts.Root)
	if err != nil {
		return nil, err
	}
	if opts.Prefix == "" {
		opts.Prefix = Prefix
	}
	if !filepath.IsAbs(opts.Prefix) {
		return nil, fmt.Errorf("the prefix must be an absolute path, is %q", opts.Prefix)
	}
	p := &Plan{tree: t, opts: opts}
	if p.record, err = t.readRecord(); err != nil {
		return nil, err
	}
	k, err := t.kubelet(opts.KubeletConfigDir)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(*Kubelet) error{p.planConfig, p.planBinary, p.planUnits, p.planTraffic} {
		if err := step(k); err != nil {
			return nil, err
		}
	}
	if err := p.planDirectories(); err != nil {
		return nil, err
	}
	return p, nil
}

// planConfig keeps a configuration that is there, and else makes the default
// one with what the kubelet's own says about this node.
func (p *Plan) planConfig(k *Kubelet) error {
	old, err := p.tree.read(ConfigFile)
	if err != nil {
		return err
	}
	now, err := p.tree.look(ConfigFile)
	if err != nil {
		return err
	}
	if old != nil && (p.opts.Config == nil || !p.record.made(ConfigFile, now)) {
		if p.opts.Config != nil && !bytes.Equal(old, p.opts.Config) {
			p.note("kept %s, which is not the one that was given", ConfigFile)
		}
		p.Config, err = configs.Parse(ConfigFile, old)
		return err
	}
	if p.opts.Config != nil {
		if p.Config, err = configs.Parse("the configuration that was given", p.opts.Config); err != nil {
			return err
		}
		return p.own(ConfigFile, "the configuration", p.opts.Config, daemon)
	}
	text := configs.DefaultTOML
	for key, value := range map[string]string{
		"backend": socketPath(k.RuntimeEndpoint), "credential_provider_config": k.CredentialProviderConfig,
		"credential_provider_bin_dir": k.CredentialProviderBinDir,
	} {
		if value != "" {
			text = withValue(text, key, value)
		}
	}
	if p.Config, err = configs.Parse(ConfigFile, text); err != nil {
		return fmt.Errorf("what the kubelet says of this node makes no configuration: %w", err)
	}
	return p.own(ConfigFile, "the configuration", text, daemon)
}

// withValue sets a key of the default configuration.
func withValue(text []byte, key, value string) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(key+" = ")) {
			line = fmt.Appendf(nil, "%s = %q\n", key, value)
		}
		out = append(out, line...)
	}
	return out
}

// binaryPath is where the unit finds the program.
func (p *Plan) binaryPath() string {
	if p.opts.Running != "" {
		return p.opts.Running
	}
	return path.Join(p.opts.Prefix, "bin", "referee")
}

// planBinary replaces also a program that is there: to install is to upgrade.
func (p *Plan) planBinary(*Kubelet) error {
	if p.opts.Running != "" {
		return nil
	}
	return p.change(Change{Path: p.binaryPath(), What: "the program", After: State{Kind: File, Mode: 0o755, Data: p.opts.Binary}, stage: daemon})
}

func (p *Plan) planUnits(*Kubelet) error {
	for _, unit := range []struct{ name, target string }{{socketUnit, "sockets.target"}, {serviceUnit, "multi-user.target"}} {
		at, err := p.unit(unit.name)
		if err != nil {
			return err
		}
		link := path.Join(unitDir, unit.target+".wants", unit.name)
		err = p.change(Change{Path: link, What: "has systemd start it", After: State{Kind: Link, Data: []byte(at)}, stage: daemon})
		if err != nil {
			return err
		}
	}
	return nil
}

// unit makes a unit, unless a package brought it, and returns where it is.
func (p *Plan) unit(name string) (string, error) {
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		s, err := p.tree.look(path.Join(dir, name))
		if err != nil {
			return "", err
		}
		if s.Kind == File && p.opts.Running != "" {
			return path.Join(dir, name), nil
		}
	}
	at := path.Join(unitDir, name)
	text := p.shipped(name,
		"ExecStart=/usr/local/bin/referee ", "ExecStart="+p.binaryPath()+" ",
		"ListenStream=/run/referee/cri.sock\n", "ListenStream="+p.Config.CRI.Socket+"\n")
	return at, p.own(at, "systemd's unit", text, daemon)
}

// shipped is a file of the folder configs, with every text of replace that is
// followed by another replaced by that.
func (p *Plan) shipped(name string, replace ...string) []byte {
	text, err := configs.Files.ReadFile(name)
	if err != nil {
		panic("install: configs does not hold " + name) // embedded when this was built
	}
	return []byte(strings.NewReplacer(replace...).Replace(string(text)))
}

func (p *Plan) planTraffic(k *Kubelet) error {
	endpoint := "unix://" + p.Config.CRI.Socket
	if p.opts.Kubelet {
		if err := p.point(k, endpoint); err != nil {
			return err
		}
	}
	if !p.opts.Crictl {
		return nil
	}
	old, err := p.tree.read(crictlFile)
	if err != nil {
		return err
	}
	if old != nil {
		return p.edit(crictlFile, "crictl's configuration", Setting{Syntax: yamlKey, Key: "image-endpoint", Value: endpoint})
	}
	return p.own(crictlFile, "crictl's configuration", p.shipped("crictl.yaml",
		"unix:///run/referee/cri.sock", endpoint, "unix:///run/containerd/containerd.sock", "unix://"+p.Config.CRI.Backend), traffic)
}

// own plans a file that is Referee's alone. Another that is there is its
// operator's, and wins.
func (p *Plan) own(file, what string, content []byte, s stage) error {
	now, err := p.tree.look(file)
	if err != nil {
		return err
	}
	c := Change{Path: file, What: what, After: text(content), stage: s}
	if now.Kind != Absent && !now.Equal(c.After) && !p.record.made(file, now) {
		p.note("kept %s, which is not what this version brings", file)
		return nil
	}
	return p.change(c)
}

// edit plans one setting in a file of others, through the links that lead there.
func (p *Plan) edit(file, what string, setting Setting) error {
	file, err := p.tree.resolve(file)
	if err != nil {
		return err
	}
	now, err := p.tree.look(file)
	if err != nil {
		return err
	}
	found, err := p.beforeSetting(file, now)
	if err != nil {
		return err
	}
	after := now
	if now.Kind == Absent {
		after = text(nil)
	}
	if after.Data, err = setting.set(found.Data); err != nil {
		return fmt.Errorf("%s: %w; put %s = %s there yourself", file, err, setting.Key, setting.Value)
	}
	return p.change(Change{Path: file, What: what, After: after, Setting: &setting, stage: traffic, found: found})
}

// beforeSetting is the file without what an earlier run put there.
func (p *Plan) beforeSetting(file string, now State) (State, error) {
	old := p.record.find(file)
	if old == nil || old.Setting == nil || now.Kind != File {
		return now, nil
	}
	found := now
	var err error
	if found.Data, err = old.Setting.unset(now.Data); err != nil {
		return now, fmt.Errorf("%s: %w", file, err)
	}
	if old.Before.Kind == Absent && len(found.Data) == 0 {
		return State{}, nil
	}
	return found, nil
}

// change adds c unless the node is so already.
func (p *Plan) change(c Change) error {
	now, err := p.tree.look(c.Path)
	if err != nil {
		return err
	}
	if now.Kind == Directory {
		return fmt.Errorf("%s is a directory", c.Path)
	}
	if now.Equal(c.After) {
		return nil
	}
	c.Before = now
	if c.Setting == nil {
		c.found = now
	}
	if c.Setting == nil && p.record.made(c.Path, now) {
		if c.found, err = p.record.before(p.tree, c.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	p.Changes = append(p.Changes, c)
	return nil
}

// planDirectories puts the directories that are missing before all else.
func (p *Plan) planDirectories() error {
	if len(p.Changes) == 0 {
		return nil
	}
	seen := map[string]bool{}
	var dirs []Change
	wanted := []string{backupDir}
	for _, c := range p.Changes {
		wanted = append(wanted, path.Dir(c.Path))
	}
	for _, dir := range wanted {
		missing, err := p.tree.missing(dir)
		if err != nil {
			return err
		}
		for _, m := range missing {
			if !seen[m] {
				seen[m] = true
				dirs = append(dirs, Change{Path: m, What: "a directory", After: State{Kind: Directory, Mode: 0o755}, stage: daemon})
			}
		}
	}
	p.Changes = append(dirs, p.Changes...)
	return nil
}
