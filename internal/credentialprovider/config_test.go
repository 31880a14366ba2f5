package credentialprovider_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/credentialprovider"
)

const header = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n"

func entryText(change ...string) string {
	text := `providers:
- name: p
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example"]
  defaultCacheDuration: 1h
`
	return strings.NewReplacer(change...).Replace(text)
}

func TestConfigProblemsNameFileAndKey(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"good":                  {header + entryText(), ""},
		"good, v1beta1":         {strings.Replace(header, "v1", "v1beta1", 1) + entryText("k8s.io/v1", "k8s.io/v1beta1"), ""},
		"good, v1alpha1":        {strings.Replace(header, "v1", "v1alpha1", 1) + entryText("k8s.io/v1", "k8s.io/v1alpha1"), ""},
		"good, JSON":            {`{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"p","apiVersion":"credentialprovider.kubelet.k8s.io/v1","matchImages":["a"],"defaultCacheDuration":"0s"}]}`, ""},
		"no YAML":               {"{", "config.yaml: "},
		"unknown key":           {header + entryText("name: p", "name: p\n  colour: red"), `unknown field "providers[0].colour"`},
		"a key twice":           {header + entryText("name: p", "name: p\n  name: q"), `"name" already set`},
		"another kind":          {strings.Replace(header, "Config", "Confit", 1) + entryText(), "config.yaml: kind: "},
		"another version":       {strings.Replace(header, "v1", "v2", 1) + entryText(), "config.yaml: apiVersion: "},
		"no providers":          {header, "config.yaml: providers: "},
		"no name":               {header + entryText("name: p", "name: ''"), "config.yaml: providers[0].name: "},
		"name with a way out":   {header + entryText("name: p", "name: ../p"), "config.yaml: providers[0].name: "},
		"name is the directory": {header + entryText("name: p", "name: .."), "config.yaml: providers[0].name: "},
		"name twice":            {header + entryText() + strings.TrimPrefix(entryText(), "providers:\n"), `config.yaml: providers[1].name: "p" is in`},
		"no plugin version":     {header + entryText("  apiVersion: credentialprovider.kubelet.k8s.io/v1\n", ""), "config.yaml: providers[0].apiVersion: "},
		"no images":             {header + entryText(`["*.example"]`, "[]"), "config.yaml: providers[0].matchImages: "},
		"a broken image":        {header + entryText(`["*.example"]`, `[a, "a:x"]`), "config.yaml: providers[0].matchImages[1]: "},
		"no duration":           {header + entryText("  defaultCacheDuration: 1h\n", ""), "config.yaml: providers[0].defaultCacheDuration: is missing"},
		"negative duration":     {header + entryText("1h", "-1h"), "config.yaml: providers[0].defaultCacheDuration: "},
		"a variable's name":     {header + entryText("1h", "1h\n  env: [{name: a=b, value: x}]"), "config.yaml: providers[0].env[0]: "},
		"no plugin":             {header + entryText("name: p", "name: q"), `provider "q": find plugin: `},
		"too large":             {header + entryText() + strings.Repeat("# padding\n", 120_000), "config.yaml: larger than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, plug{name: "p", match: "x"})
			s.write(s.opts.Config, tc.text)
			err := credentialprovider.Check(s.opts)
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestConfigMayBeADirectory(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "p", match: "a.example"}, plug{name: "q", match: "a.example"})
	s.answer("p", "Image", "", map[string]string{"a.example": "u:p"})
	s.answer("q", "Image", "", map[string]string{"a.example": "u:q"})
	dir := filepath.Join(s.dir, "conf.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.opts.Config = dir
	if err := credentialprovider.Check(s.opts); err == nil {
		t.Error("an empty directory is good")
	}
	file := func(name string, p plug) {
		s.opts.Config = filepath.Join(dir, name)
		s.configure(p)
		s.opts.Config = dir
	}
	file("20.yml", plug{name: "p", match: "a.example"})
	file("10.yaml", plug{name: "q", match: "a.example"})
	file("ignored.txt", plug{name: "p", match: "a.example"})
	if err := credentialprovider.Check(s.opts); err != nil {
		t.Error(err)
	}
	want(t, s.start(), "a.example/x", "u:q", "u:p") // of one key, that of the earlier file
	file("30.json", plug{name: "p", match: "b.example"})
	if err := credentialprovider.Check(s.opts); err == nil || !strings.Contains(err.Error(), `30.json: providers[0].name: "p" is in `+dir+"/20.yml already") {
		t.Errorf("error %v", err)
	}
}
