// Package charts tests the Helm chart: this folder is a module of its own, so that
// Referee itself needs neither Helm nor Kubernetes.
package charts

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	strict "sigs.k8s.io/yaml"
)

const chartDir = "referee"

var update = flag.Bool("update", false, "write the table of values into the chart's README")

// render makes the chart's manifests, by the name of their template. Values are
// checked with the chart's schema on the way.
func render(t *testing.T, values map[string]any) (map[string]string, error) {
	t.Helper()
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	options := chartutil.ReleaseOptions{Name: "lazy", Namespace: "kube-system", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(chart, all)
	manifests := map[string]string{}
	for path, text := range rendered {
		if strings.TrimSpace(text) != "" {
			manifests[filepath.Base(path)] = text
		}
	}
	return manifests, err
}

// daemonSet is the chart's, decoded strictly: a field that Kubernetes does not know
// is an error.
func daemonSet(t *testing.T, values map[string]any) apps.DaemonSet {
	t.Helper()
	manifests, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	var set apps.DaemonSet
	if err := strict.UnmarshalStrict([]byte(manifests["daemonset.yaml"]), &set); err != nil {
		t.Fatalf("%v\n%s", err, manifests["daemonset.yaml"])
	}
	return set
}

func TestLint(t *testing.T) {
	t.Parallel()
	for name, values := range map[string]map[string]any{
		"defaults":  nil,
		"uninstall": {"mode": "uninstall"},
		"config":    {"config": "version = 1\n"},
	} {
		result := lint.AllWithKubeVersion(chartDir, values, "kube-system", nil)
		for _, m := range result.Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
}

// What is installed is the binary's work; the pod brings it the options and the node.
func TestInstall(t *testing.T) {
	t.Parallel()
	set := daemonSet(t, nil)
	pod := set.Spec.Template.Spec
	init := pod.InitContainers[0]
	want := []string{"/referee", "install", "--root=/host", "--prefix=/usr/local", "--kubelet=true", "--crictl=true"}
	if diff := cmp.Diff(want, init.Command); diff != "" {
		t.Errorf("the command (-want +got):\n%s", diff)
	}
	if init.Image != "ghcr.io/referee-cri/referee:v0.1.0" {
		t.Errorf("the image is %s", init.Image)
	}
	if len(pod.Volumes) != 1 || pod.Volumes[0].HostPath == nil || pod.Volumes[0].HostPath.Path != "/" || init.VolumeMounts[0].MountPath != "/host" {
		t.Errorf("volumes %+v at %+v", pod.Volumes, init.VolumeMounts)
	}
	if set.Name != "lazy" || set.Namespace != "kube-system" || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("it is %s/%s with priority %s", set.Namespace, set.Name, pod.PriorityClassName)
	}
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("the selector wants %s=%s, pods have %v", key, value, set.Spec.Template.Labels)
		}
	}
}

// No container is privileged, sees the node's processes or network, or talks to the
// API; what stays has nothing of the node.
func TestPodHasLittle(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"install", "uninstall"} {
		pod := daemonSet(t, map[string]any{"mode": mode}).Spec.Template.Spec
		if pod.HostPID || pod.HostNetwork || pod.HostIPC || ptr.Deref(pod.AutomountServiceAccountToken, true) {
			t.Errorf("%s: the pod has host namespaces or a token", mode)
		}
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			s := c.SecurityContext
			if ptr.Deref(s.Privileged, false) || ptr.Deref(s.AllowPrivilegeEscalation, true) || !ptr.Deref(s.ReadOnlyRootFilesystem, false) {
				t.Errorf("%s: %s may do too much: %+v", mode, c.Name, s)
			}
			if diff := cmp.Diff([]core.Capability{"ALL"}, s.Capabilities.Drop); diff != "" {
				t.Errorf("%s: %s keeps capabilities: %s", mode, c.Name, diff)
			}
			if _, limited := c.Resources.Limits[core.ResourceMemory]; !limited {
				t.Errorf("%s: %s has no limit of memory", mode, c.Name)
			}
		}
		wait := pod.Containers[0]
		if len(pod.Containers) != 1 || len(wait.VolumeMounts) != 0 || !ptr.Deref(wait.SecurityContext.RunAsNonRoot, false) {
			t.Errorf("%s: beside waits %+v", mode, wait)
		}
	}
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	set := daemonSet(t, map[string]any{"mode": "uninstall", "uninstall": map[string]any{"drainTimeout": "1h"}})
	want := []string{"/referee", "uninstall", "--root=/host", "--force=false", "--purge=true", "--drain-timeout=1h"}
	if diff := cmp.Diff(want, set.Spec.Template.Spec.InitContainers[0].Command); diff != "" {
		t.Errorf("the command (-want +got):\n%s", diff)
	}
}

// A configuration reaches the binary, and a changed one every node.
func TestConfig(t *testing.T) {
	t.Parallel()
	const config = "version = 1\n[log]\nlevel = \"debug\"\n"
	values := map[string]any{"config": config, "image": map[string]any{"digest": "sha256:" + strings.Repeat("a", 64)}}
	manifests, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	var configMap core.ConfigMap
	if err := strict.UnmarshalStrict([]byte(manifests["configmap.yaml"]), &configMap); err != nil {
		t.Fatal(err)
	}
	if got := configMap.Data["config.toml"]; got != config {
		t.Errorf("the node gets %q", got)
	}
	with, without := daemonSet(t, values), daemonSet(t, nil)
	pod := with.Spec.Template.Spec
	if command := strings.Join(pod.InitContainers[0].Command, " "); !strings.Contains(command, "--with-config=/config/config.toml") {
		t.Errorf("the command is %s", command)
	}
	if pod.Volumes[1].ConfigMap.Name != configMap.Name || !strings.HasSuffix(pod.InitContainers[0].Image, "@sha256:"+strings.Repeat("a", 64)) {
		t.Errorf("volumes %+v, image %s", pod.Volumes, pod.InitContainers[0].Image)
	}
	if cmp.Equal(with.Spec.Template.Annotations, without.Spec.Template.Annotations) {
		t.Error("pods are not replaced when the configuration changes")
	}
}

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	for name, values := range map[string]map[string]any{
		"a mode that is none":   {"mode": "remove"},
		"a key that is none":    {"modus": "install"},
		"a relative prefix":     {"install": map[string]any{"prefix": "usr"}},
		"a digest that is none": {"image": map[string]any{"digest": "latest"}},
		"a time without unit":   {"uninstall": map[string]any{"drainTimeout": "10"}},
	} {
		if _, err := render(t, values); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// The README's table says what values.yaml says.
func TestReadmeIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(chartDir, "README.md")
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- values: begin -->\n", "<!-- values: end -->\n"
	head, rest, found := strings.Cut(string(readme), begin)
	_, tail, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatal("the README has no place for the table")
	}
	want := head + begin + table(t) + end + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, string(readme)); diff != "" {
		t.Errorf("run `go test -update` (-want +got):\n%s", diff)
	}
}

// table lists the values with their comments.
func table(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("| value | default | |\n|---|---|---|\n")
	rows(t, &out, "", document.Content[0])
	return out.String()
}

func rows(t *testing.T, out *strings.Builder, prefix string, mapping *yaml.Node) {
	t.Helper()
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		comment := strings.Join(strings.Fields(strings.ReplaceAll("\n"+key.HeadComment, "\n#", " ")), " ")
		if value.Kind == yaml.MappingNode && len(value.Content) > 0 && comment == "" {
			rows(t, out, prefix+key.Value+".", value)
			continue
		}
		if comment == "" {
			t.Errorf("values.yaml does not say what %s%s is", prefix, key.Value)
		}
		var plain any
		if err := value.Decode(&plain); err != nil {
			t.Fatal(err)
		}
		shown, err := strict.Marshal(plain)
		if err == nil {
			shown, err = strict.YAMLToJSON(shown)
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "| `%s%s` | `%s` | %s |\n", prefix, key.Value, strings.TrimSpace(string(shown)), comment)
	}
}
