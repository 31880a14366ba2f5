package charts

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch"
	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
	strict "sigs.k8s.io/yaml"
)

// removal is what the chart has for the removal of its release, decoded strictly.
type removal struct {
	account core.ServiceAccount
	role    rbac.Role
	binding rbac.RoleBinding
	job     batch.Job
}

func newRemoval(t *testing.T, values map[string]any) removal {
	t.Helper()
	manifests, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	var r removal
	documents := strings.Split(manifests["remove.yaml"], "\n---\n")
	for i, object := range []any{&r.account, &r.role, &r.binding, &r.job} {
		if len(documents) != 4 {
			t.Fatalf("there are %d documents:\n%s", len(documents), manifests["remove.yaml"])
		}
		if err := strict.UnmarshalStrict([]byte(documents[i]), object); err != nil {
			t.Fatalf("%v\n%s", err, documents[i])
		}
	}
	return r
}

// patch is what the Job makes of the DaemonSet.
func (r *removal) patch(t *testing.T) []byte {
	t.Helper()
	args := r.job.Spec.Template.Spec.InitContainers[0].Args
	patch, found := strings.CutPrefix(args[len(args)-1], "--patch=")
	want := []string{"patch", "daemonset/lazy", "--namespace=kube-system", "--type=merge"}
	if diff := cmp.Diff(want, args[:len(args)-1]); diff != "" || !found {
		t.Fatalf("the Job does (-want +got):\n%s\nand %s", diff, args[len(args)-1])
	}
	return []byte(patch)
}

func encode(t *testing.T, object any) []byte {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Helm runs everything when a release is removed and at no other time, the Job last,
// and the Job's account can do what the Job does to one DaemonSet.
func TestRemovalIsAHook(t *testing.T) {
	t.Parallel()
	r := newRemoval(t, nil)
	for name, object := range map[string]meta.ObjectMeta{"account": r.account.ObjectMeta, "role": r.role.ObjectMeta, "binding": r.binding.ObjectMeta, "job": r.job.ObjectMeta} {
		want := map[string]string{"helm.sh/hook": "pre-delete", "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded", "helm.sh/hook-weight": "-1"}
		if name == "job" {
			want["helm.sh/hook-weight"] = "0"
		}
		if diff := cmp.Diff(want, object.Annotations); diff != "" || object.Name != "lazy-remove" || object.Namespace != "kube-system" {
			t.Errorf("the %s is %s/%s, its annotations (-want +got):\n%s", name, object.Namespace, object.Name, diff)
		}
	}
	rule := rbac.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, ResourceNames: []string{"lazy"}, Verbs: []string{"get", "list", "watch", "patch"}}
	if diff := cmp.Diff([]rbac.PolicyRule{rule}, r.role.Rules); diff != "" {
		t.Errorf("the account may (-want +got):\n%s", diff)
	}
	subject := rbac.Subject{Kind: "ServiceAccount", Name: r.account.Name, Namespace: r.account.Namespace}
	if !slices.Equal(r.binding.Subjects, []rbac.Subject{subject}) || r.binding.RoleRef != (rbac.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: r.role.Name}) {
		t.Errorf("the binding is of %+v to %+v", r.binding.Subjects, r.binding.RoleRef)
	}
	pod := r.job.Spec.Template
	if pod.Spec.ServiceAccountName != r.account.Name || !ptr.Deref(pod.Spec.AutomountServiceAccountToken, false) || len(pod.Spec.Volumes) != 0 {
		t.Errorf("the Job's pod is %+v", pod.Spec)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if s := c.SecurityContext; !ptr.Deref(s.RunAsNonRoot, false) || ptr.Deref(s.AllowPrivilegeEscalation, true) || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s may do too much: %+v", c.Name, s)
		}
	}
	wait := []string{"rollout", "status", "daemonset/lazy", "--namespace=kube-system"}
	if diff := cmp.Diff(wait, pod.Spec.Containers[0].Args); diff != "" {
		t.Errorf("it waits by (-want +got):\n%s", diff)
	}
	selector := daemonSet(t, nil).Spec.Selector
	if matches, err := meta.LabelSelectorAsSelector(selector); err != nil || matches.Matches(labels.Set(pod.Labels)) {
		t.Errorf("the DaemonSet takes the Job's pod for its own: %v, %v", pod.Labels, err)
	}
}

// The Job makes the DaemonSet what it is in mode uninstall; and Helm, which compares what
// it installed, what it wants and what is there, makes it install again.
func TestRemovalSwitchesTheDaemonSet(t *testing.T) {
	t.Parallel()
	values := map[string]any{"config": "version = 1\n", "uninstall": map[string]any{"drainTimeout": "1h"}}
	r, installs := newRemoval(t, values), daemonSet(t, values)
	values["mode"] = "uninstall"
	uninstalls := daemonSet(t, values)
	var patched apps.DaemonSet
	merged, err := jsonpatch.MergePatch(encode(t, installs), r.patch(t))
	if err == nil {
		err = strict.UnmarshalStrict(merged, &patched)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(uninstalls, patched); diff != "" {
		t.Errorf("the patched DaemonSet (-mode uninstall +patched):\n%s", diff)
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(apps.DaemonSet{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := strategicpatch.CreateThreeWayMergePatch(encode(t, installs), encode(t, installs), merged, schema, true)
	if err == nil {
		back, err = strategicpatch.StrategicMergePatch(merged, back, apps.DaemonSet{})
	}
	var restored apps.DaemonSet
	if err == nil {
		err = strict.UnmarshalStrict(back, &restored)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(installs, restored); diff != "" {
		t.Errorf("what Helm makes of it (-want +got):\n%s", diff)
	}
}

// Installing and upgrading create nothing of the removal; a removal waits for the Job
// before it takes anything away, and takes nothing away where the Job does not end.
func TestOnlyRemovalDrains(t *testing.T) {
	t.Parallel()
	c := newCluster()
	for _, words := range [][]string{{"install", "lazy", "./charts/referee"}, {"upgrade", "lazy", "./charts/referee", "--set", "maxUnavailable=1"}} {
		if err := c.helm(words...); err != nil {
			t.Fatal(err)
		}
	}
	if slices.ContainsFunc(c.events, func(event string) bool { return strings.Contains(event, "Job") }) {
		t.Errorf("without a removal Helm does %q", c.events)
	}
	c.events, c.stuck = nil, errors.New("timed out")
	hooks := []string{"create ServiceAccount", "create Role", "create RoleBinding", "create Job", "wait for Job"}
	if err := c.helm("uninstall", "lazy"); err == nil || !slices.Equal(c.events, hooks) {
		t.Errorf("a removal that cannot drain: %v, %q", err, c.events)
	}
	if err := c.helm("rollback", "lazy"); err != nil {
		t.Errorf("going back after it: %v", err)
	}
	c.events, c.stuck = nil, nil
	if err := c.helm("uninstall", "lazy"); err != nil || !slices.Equal(c.events, append(hooks, "read DaemonSet")) {
		t.Errorf("a removal: %v, %q", err, c.events)
	}
	c = newCluster()
	if err := errors.Join(c.helm("install", "lazy", "./charts/referee", "--set", "uninstall.onRemoval=false"), c.helm("uninstall", "lazy")); err != nil || slices.Contains(c.events, "create Job") {
		t.Errorf("a removal that must not drain: %v, %q", err, c.events)
	}
}

// What the pods run, before and after the Job has been there, leaves a node's tree as
// it was.
func TestRemovalLeavesNothing(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "referee")
	if out, err := exec.CommandContext(t.Context(), "go", "-C", "..", "build", "-o", program, "./cmd/referee").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	root := t.TempDir()
	kubelet := filepath.Join(root, "var/lib/kubelet/config.yaml")
	const config = "kind: KubeletConfiguration # mine\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(kubelet), 0o755), os.WriteFile(kubelet, []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	before := treeOf(t, root)
	run := func(container core.Container) {
		t.Helper()
		args := slices.Clone(container.Command[1:])
		for i := range args {
			args[i] = strings.Replace(args[i], "--root=/host", "--root="+root, 1)
		}
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	r, set := newRemoval(t, nil), daemonSet(t, nil)
	run(set.Spec.Template.Spec.InitContainers[0])
	if text, err := os.ReadFile(kubelet); err != nil || !strings.Contains(string(text), "imageServiceEndpoint: ") {
		t.Fatalf("after installing the kubelet has %q, %v", text, err)
	}
	merged, err := jsonpatch.MergePatch(encode(t, set), r.patch(t))
	if err == nil {
		set = apps.DaemonSet{}
		err = strict.UnmarshalStrict(merged, &set)
	}
	if err != nil {
		t.Fatal(err)
	}
	run(set.Spec.Template.Spec.InitContainers[0])
	if diff := cmp.Diff(before, treeOf(t, root)); diff != "" {
		t.Errorf("the node's tree (-before +after):\n%s", diff)
	}
	run(set.Spec.Template.Spec.InitContainers[0]) // a pod that starts again
}

// treeOf are the files below root with what is in them.
func treeOf(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			tree[path] = ""
			return err
		}
		text, err := os.ReadFile(path)
		tree[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
