package credentialprovider

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	kubeletv1 "k8s.io/kubelet/config/v1"
	credentialv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxConfig bounds a configuration file, bytes.
const maxConfig = 1 << 20

// The versions whose fields are those of v1, but for tokenAttributes, as of
// k8s.io/kubelet v0.37.
var (
	configVersions = []string{"kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"}
	pluginVersions = []string{credentialv1.SchemeGroupVersion.String(), "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"}
)

// provider is one entry of the configuration, checked.
type provider struct {
	name         string
	apiVersion   string
	match        []pattern
	defaultCache time.Duration
	args         []string
	env          []string // "NAME=value"
	wantsToken   bool     // tokenAttributes: not for us
}

// readConfig reads the kubelet's CredentialProviderConfig. Like the kubelet's, the
// path may be of a directory: then its *.json, *.yaml and *.yml count, in the
// order of their names. The error holds every problem, each with file and key.
func readConfig(path string) ([]provider, error) {
	files, err := configFiles(path)
	if err != nil {
		return nil, err
	}
	var (
		providers []provider
		problems  []error
		seen      = map[string]string{} // file by provider
	)
	for _, file := range files {
		config, err := decodeConfig(file)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
			continue
		}
		for i, entry := range config.Providers {
			at := fmt.Sprintf("%s: providers[%d]", file, i)
			if other, ok := seen[entry.Name]; ok {
				problems = append(problems, fmt.Errorf("%s.name: %q is in %s already", at, entry.Name, other))
			}
			seen[entry.Name] = file
			p, bad := checkProvider(at, entry)
			providers = append(providers, p)
			problems = append(problems, bad...)
		}
	}
	if len(providers) == 0 && len(problems) == 0 {
		problems = append(problems, fmt.Errorf("%s: providers: there is none", path))
	}
	return providers, errors.Join(problems...)
}

// configFiles lists the files behind the path of a configuration.
func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("find credential provider config: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // in the order of names
	if err != nil {
		return nil, fmt.Errorf("list credential provider configs: %w", err)
	}
	var files []string
	for _, entry := range entries {
		if ext := filepath.Ext(entry.Name()); !entry.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, ext) {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find credential provider config: %s holds no .json, .yaml or .yml", path)
	}
	return files, nil
}

func decodeConfig(file string) (*kubeletv1.CredentialProviderConfig, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxConfig)
	}
	return parseConfig(text)
}

func parseConfig(text []byte) (*kubeletv1.CredentialProviderConfig, error) {
	document, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	config := &kubeletv1.CredentialProviderConfig{}
	unknown, err := json.UnmarshalStrict(document, config)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return nil, err
	}
	if config.Kind != "CredentialProviderConfig" {
		return nil, fmt.Errorf("kind: want CredentialProviderConfig, not %q", config.Kind)
	}
	if !slices.Contains(configVersions, config.APIVersion) {
		return nil, fmt.Errorf("apiVersion: want one of %s, not %q", strings.Join(configVersions, ", "), config.APIVersion)
	}
	return config, nil
}

// checkProvider applies the kubelet's rules to one entry.
func checkProvider(at string, entry kubeletv1.CredentialProvider) (provider, []error) {
	p := provider{name: entry.Name, apiVersion: entry.APIVersion, args: entry.Args, wantsToken: entry.TokenAttributes != nil}
	var problems []error
	complain := func(key, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s.%s: "+format, append([]any{at, key}, args...)...))
	}
	if entry.Name == "" || entry.Name == "." || entry.Name == ".." || strings.ContainsAny(entry.Name, "/ \x00") {
		complain("name", "%q is no file name", entry.Name)
	}
	if !slices.Contains(pluginVersions, entry.APIVersion) {
		complain("apiVersion", "want one of %s, not %q", strings.Join(pluginVersions, ", "), entry.APIVersion)
	}
	if len(entry.MatchImages) == 0 {
		complain("matchImages", "there is none")
	}
	for i, glob := range entry.MatchImages {
		parsed, err := parsePattern(glob)
		if err != nil {
			complain(fmt.Sprintf("matchImages[%d]", i), "%w", err)
		}
		p.match = append(p.match, parsed)
	}
	switch {
	case entry.DefaultCacheDuration == nil:
		complain("defaultCacheDuration", "is missing")
	case entry.DefaultCacheDuration.Duration < 0:
		complain("defaultCacheDuration", "%s is negative", entry.DefaultCacheDuration.Duration)
	default:
		p.defaultCache = entry.DefaultCacheDuration.Duration
	}
	for i, v := range entry.Env {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.Contains(v.Value, "\x00") {
			complain(fmt.Sprintf("env[%d]", i), "%q is no name of a variable, or its value holds a NUL", v.Name)
		}
		p.env = append(p.env, v.Name+"="+v.Value)
	}
	return p, problems
}

func (p *provider) matches(image pattern) bool {
	return slices.ContainsFunc(p.match, func(glob pattern) bool { return glob.matches(image) })
}

// configFingerprint changes when a file of the configuration does.
func configFingerprint(path string) string {
	files, err := configFiles(path)
	if err != nil {
		return err.Error()
	}
	return fingerprint(files)
}

// fingerprint changes when one of the files does.
func fingerprint(files []string) string {
	var b strings.Builder
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			continue
		}
		fmt.Fprintf(&b, "%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}
