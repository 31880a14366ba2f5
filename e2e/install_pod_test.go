package e2e_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestInstallFromAPod runs what the chart's init container runs, with no more
// rights than it has there, and a node's tree for its node.
func TestInstallFromAPod(t *testing.T) {
	t.Parallel()
	n, registry := node.Run(t, node.Options{}), regtest.New(t, regtest.Options{})
	if _, err := registry.LoadLayout("tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	binary, err := tools.Referee(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	kubelet := filepath.Join(root, "var/lib/kubelet/config.yaml")
	const config = "kind: KubeletConfiguration # mine\n"
	if err := errors.Join(os.MkdirAll(filepath.Dir(kubelet), 0o755), os.WriteFile(kubelet, []byte(config), 0o600)); err != nil { //nolint:gosec // as on a node
		t.Fatal(err)
	}
	if _, err := n.CRI().Pull(t.Context(), registry.Ref("tiny", "tiny"), nil); err != nil {
		t.Fatal(err)
	}
	before := paths(t, root)
	run := func(args ...string) {
		t.Helper()
		said := runInPod(t, n, registry.Ref("tiny", "tiny"), append([]string{"/program/" + filepath.Base(binary)}, args...), []*runtime.Mount{
			{ContainerPath: "/program", HostPath: filepath.Dir(binary), Readonly: true},
			{ContainerPath: "/host", HostPath: root},
		})
		t.Logf("referee %s\n%s", strings.Join(args, " "), said)
	}
	run("install", "--root=/host", "--prefix=/usr/local", "--kubelet=true", "--crictl=true")
	if text := readText(t, kubelet); text != config+"imageServiceEndpoint: unix:///run/referee/cri.sock\n" {
		t.Errorf("the kubelet's configuration is %q", text)
	}
	info, err := os.Stat(filepath.Join(root, "usr/local/bin/referee"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("the program on the node is %v, %v", info, err)
	}
	run("uninstall", "--root=/host", "--force=false", "--purge=true", "--drain-timeout=10m")
	if after := paths(t, root); !slices.Equal(before, after) || readText(t, kubelet) != config {
		t.Errorf("before there was %q, after %q", before, after)
	}
}

// runInPod runs a program as root without privileges until it ends well, and
// returns what it said.
func runInPod(t *testing.T, n *node.Node, image string, command []string, mounts []*runtime.Mount) string {
	t.Helper()
	pod, err := n.CRI().RunPod(t.Context(), "install")
	if err != nil {
		t.Fatal(err)
	}
	container, err := pod.Create(t.Context(), image, command, func(c *runtime.ContainerConfig) {
		c.Mounts = mounts
		security := c.GetLinux().GetSecurityContext()
		security.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN", "DAC_OVERRIDE", "FOWNER"}}
		security.ReadonlyRootfs, security.NoNewPrivs = true, true
		security.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	})
	if err == nil {
		defer removePod(t, container)
		err = container.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	code, err := container.Wait(t.Context())
	said, logErr := container.Logs()
	if err != nil || logErr != nil || code != 0 {
		t.Fatalf("%q ends with %d, %v, %v\n%s", command, code, err, logErr, said)
	}
	return said
}

// paths are all below root.
func paths(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, strings.TrimPrefix(path, root))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
