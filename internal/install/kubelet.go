package install

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Where packages and kubeadm keep what the kubelet is started with. kubeadm's
// unit passes the variables of the first file, then those of the others, and of
// two equal flags the later wins.
const (
	kubeadmFlags   = "/var/lib/kubelet/kubeadm-flags.env"
	kubeadmConfig  = "/var/lib/kubelet/config.yaml"
	defaultKubelet = "/etc/default/kubelet"   // Debian
	sysconfig      = "/etc/sysconfig/kubelet" // Red Hat
)

// The kubelet's flags and keys that matter here
// (KubeletConfiguration, kubelet.config.k8s.io/v1beta1).
const (
	endpointFlag = "image-service-endpoint"
	endpointKey  = "imageServiceEndpoint"
	runtimeFlag  = "container-runtime-endpoint"
	runtimeKey   = "containerRuntimeEndpoint"
	dropInName   = "50-referee.conf"
)

// unitDirs hold units, the last first in rank (systemd.unit(5)).
func unitDirs() []string {
	return []string{"/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"}
}

// Kubelet is how a node's kubelet is configured, as far as files tell.
type Kubelet struct {
	Found     bool   // there is a kubelet's file at all
	Config    string // its configuration file, "" where there is none
	ConfigDir string // of drop-ins, "" where it is started without

	ImageEndpoint   string // "" where images go where containers go
	EndpointFile    string // the file that says so
	RuntimeEndpoint string

	// The kubelet's credential provider plugins, where it has some.
	CredentialProviderConfig, CredentialProviderBinDir string

	flags       map[string]flag
	extraPassed bool // its unit passes $KUBELET_EXTRA_ARGS
}

// flag is one argument of the kubelet and the file it is in.
type flag struct{ value, file string }

// FindKubelet reads what a node says of its kubelet. Root is "" or "/" for this node.
func FindKubelet(root string) (*Kubelet, error) {
	t, err := absolute(root)
	if err != nil {
		return nil, err
	}
	return t.kubelet("")
}

// kubelet finds the kubelet's files; configDir overrides what its flags say.
func (t tree) kubelet(configDir string) (*Kubelet, error) {
	k := &Kubelet{flags: map[string]flag{}}
	for _, file := range t.kubeletFlagFiles() {
		text, err := t.read(file)
		if err != nil {
			return nil, err
		}
		if text != nil {
			k.Found = true
			k.readFlags(file, string(text))
		}
	}
	k.ConfigDir, k.Config = k.flags["config-dir"].value, k.flags["config"].value
	if configDir != "" {
		k.ConfigDir = configDir
	}
	if k.Config == "" {
		k.Config = kubeadmConfig
	}
	k.RuntimeEndpoint = k.flags[runtimeFlag].value
	k.CredentialProviderConfig = k.flags["image-credential-provider-config"].value
	k.CredentialProviderBinDir = k.flags["image-credential-provider-bin-dir"].value
	return k, t.readKubeletConfig(k)
}

// kubeletFlagFiles may hold flags, in the order in which they count.
func (t tree) kubeletFlagFiles() []string {
	var files []string
	for _, dir := range unitDirs() {
		files = append(files, path.Join(dir, "kubelet.service"))
		files = append(files, t.glob(path.Join(dir, "kubelet.service.d", "*.conf"))...)
	}
	return append(files, kubeadmFlags, sysconfig, defaultKubelet)
}

// argument is a long flag with its value, if it has one.
var argument = regexp.MustCompile(`--([a-z][a-z0-9-]*)(?:[= ][ \t]*([^\s"'\\-][^\s"'\\]*))?`)

func (k *Kubelet) readFlags(file, text string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if strings.Contains(line, "$KUBELET_EXTRA_ARGS") || strings.Contains(line, "${KUBELET_EXTRA_ARGS}") {
			k.extraPassed = true
		}
		for _, found := range argument.FindAllStringSubmatch(line, -1) {
			k.flags[found[1]] = flag{value: found[2], file: file}
		}
	}
}

// readKubeletConfig reads the file and the drop-ins, which win over it, and has
// flags win over both.
func (t tree) readKubeletConfig(k *Kubelet) error {
	files := []string{k.Config}
	if k.ConfigDir != "" {
		files = append(files, t.glob(path.Join(k.ConfigDir, "*.conf"))...)
	}
	var runtime string
	for i, file := range files {
		text, err := t.read(file)
		if err != nil {
			return err
		}
		if text == nil {
			if i == 0 {
				k.Config = ""
			}
			continue
		}
		k.Found = true
		image, err := stringAt(text, endpointKey)
		if err != nil {
			return fmt.Errorf("the kubelet's %s: %w", file, err)
		}
		if image != "" {
			k.ImageEndpoint, k.EndpointFile = image, file
		}
		if value, err := stringAt(text, runtimeKey); err == nil && value != "" {
			runtime = value
		}
	}
	if f, given := k.flags[endpointFlag]; given && f.value != "" {
		k.ImageEndpoint, k.EndpointFile = f.value, f.file
	}
	if k.RuntimeEndpoint == "" {
		k.RuntimeEndpoint = runtime
	}
	return nil
}

// socketPath is the path of an endpoint as the kubelet writes them.
func socketPath(endpoint string) string { return strings.TrimPrefix(endpoint, "unix://") }

// point adds to the plan what sends the kubelet to endpoint.
func (p *Plan) point(k *Kubelet, endpoint string) error {
	given, byFlag := k.flags[endpointFlag]
	switch {
	case !k.Found && k.ConfigDir == "":
		p.note("there is no kubelet here: whoever pulls images is to be sent to %s", endpoint)
	case byFlag && given.value != "" && given.value != endpoint:
		if packaged(given.file) {
			return fmt.Errorf("%s starts the kubelet with --%s=%s, which wins over its configuration: change it there", given.file, endpointFlag, given.value)
		}
		return p.edit(given.file, "the kubelet's flags", Setting{Syntax: commandFlag, Key: endpointFlag, Value: endpoint})
	case byFlag && given.value == endpoint:
	case k.ConfigDir != "":
		return p.pointByDropIn(k, endpoint)
	case k.Config != "":
		return p.edit(k.Config, "the kubelet's configuration", Setting{Syntax: yamlKey, Key: endpointKey, Value: endpoint})
	case k.extraPassed:
		return p.edit(p.extraArgumentsFile(), "the kubelet's flags", Setting{Syntax: commandFlag, Key: endpointFlag, Value: endpoint})
	default:
		p.note("nothing here tells the kubelet where its images are: start it with --%s=%s", endpointFlag, endpoint)
	}
	return nil
}

// packaged tells whether a file belongs to a package, which would put it back.
func packaged(file string) bool {
	return strings.HasPrefix(file, "/usr/") || strings.HasPrefix(file, "/lib/")
}

func (p *Plan) extraArgumentsFile() string {
	for _, file := range []string{defaultKubelet, sysconfig} {
		if s, err := p.tree.look(file); err == nil && s.Kind != Absent {
			return file
		}
	}
	if s, err := p.tree.look(filepath.Dir(sysconfig)); err == nil && s.Kind == Directory {
		return sysconfig
	}
	return defaultKubelet
}

// pointByDropIn makes the drop-in, unless a later one says otherwise.
func (p *Plan) pointByDropIn(k *Kubelet, endpoint string) error {
	ours := path.Join(k.ConfigDir, dropInName)
	later := p.tree.glob(path.Join(k.ConfigDir, "*.conf"))
	later = slices.DeleteFunc(later, func(file string) bool { return path.Base(file) <= dropInName })
	for _, file := range later {
		text, err := p.tree.read(file)
		if err != nil {
			return err
		}
		if value, err := stringAt(text, endpointKey); err == nil && value != "" && value != endpoint {
			return fmt.Errorf("%s says %s: %s and is read after %s: change it there", file, endpointKey, value, ours)
		}
	}
	if k.flags["config-dir"].value == "" {
		p.note("the kubelet must be started with --config-dir=%s: nothing here does that yet", k.ConfigDir)
	}
	return p.own(ours, "the kubelet's drop-in", p.shipped("kubelet.conf", "unix:///run/referee/cri.sock", endpoint), traffic)
}
