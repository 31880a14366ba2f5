package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/doctor"
	"github.com/referee-cri/referee/internal/keeper"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

// ward is a node that is all right until a test breaks something.
type ward struct {
	*doctor.Node
	dir string
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{dir: t.TempDir()}
	config := configs.Default()
	config.Root, config.State = w.path("root"), w.path("state")
	config.CRI.Socket, config.CRI.Backend = w.path("cri.sock"), w.path("containerd.sock")
	config.Registry.ConfigPath = w.path("certs.d")
	config.Containerd.ImageVerifierDir = w.path("verifiers")
	config.Cache.MaxSize = configs.Size{Bytes: configs.MiB}
	w.Node = &doctor.Node{
		Version: "v1", Root: w.path("node"), Config: config,
		Snapshotter: func(context.Context) error { return nil },
		Survey:      func(string) []attach.Finding { return []attach.Finding{{Driver: "fuse"}} },
		Keeper:      keeper.Client{Path: w.path("keeper.sock")},
	}
	w.write(t, "node/var/lib/kubelet/config.yaml", "imageServiceEndpoint: unix://"+config.CRI.Socket+"\n")
	return w
}

func (w *ward) path(name string) string { return filepath.Join(w.dir, name) }

func (w *ward) write(t *testing.T, name, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(w.path(name)), 0o700)
	if err == nil {
		err = os.WriteFile(w.path(name), []byte(text), 0o700) //nolint:gosec // some are programs
	}
	if err != nil {
		t.Fatal(err)
	}
}

// look makes one check.
func (w *ward) look(t *testing.T, name string) []doctor.Finding {
	t.Helper()
	for _, check := range w.Checks() {
		if check.Name() == name {
			return doctor.Run(t.Context(), w.Version, []doctor.Check{check}).Findings
		}
	}
	t.Fatalf("there is no check %q", name)
	return nil
}

// expect wants one finding of that level which says so, and none that is worse.
func (w *ward) expect(t *testing.T, name string, level doctor.Level, says string) {
	t.Helper()
	found := w.look(t, name)
	seen := false
	for _, f := range found {
		if f.Level == level && strings.Contains(f.Found+" "+f.Remedy, says) {
			seen = true
		} else if f.Level == doctor.Bad || f.Level == doctor.Degraded && level == doctor.Good {
			t.Errorf("%s: it is also %s: %s", name, f.Level, f.Found)
		}
		if f.Level != doctor.Good && f.Means == "" && f.Remedy == "" {
			t.Errorf("%s: nothing is said about what to make of it: %s", name, f.Found)
		}
	}
	if !seen {
		t.Errorf("%s: want %s with %q, found %+v", name, level, says, found)
	}
}

// backend is a containerd as far as the doctor asks.
type backend struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	introspection.UnimplementedIntrospectionServer

	name, version string
	plugins       []*introspection.Plugin
}

func (b *backend) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{RuntimeName: b.name, RuntimeVersion: b.version}, nil
}

func (b *backend) ImageFsInfo(context.Context, *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	return &runtime.ImageFsInfoResponse{}, nil
}

func (b *backend) Plugins(context.Context, *introspection.PluginsRequest) (*introspection.PluginsResponse, error) {
	return &introspection.PluginsResponse{Plugins: b.plugins}, nil
}

// serve runs b at path until the test ends.
func (b *backend) serve(t *testing.T, path string) {
	t.Helper()
	listener, err := criimage.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(server, b)
	runtime.RegisterImageServiceServer(server, b)
	introspection.RegisterIntrospectionServer(server, b)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }() // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// runContainerd starts b and dials it.
func (w *ward) runContainerd(t *testing.T, b *backend) {
	t.Helper()
	b.serve(t, w.Config.CRI.Backend)
	w.dial(t)
}

func (w *ward) dial(t *testing.T) {
	t.Helper()
	conn, err := criimage.Dial(w.Config.CRI.Backend)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w.Backend, w.Containerd = conn, conn
}

func TestContainerd(t *testing.T) {
	t.Parallel()
	transfer := &introspection.Plugin{Type: "io.containerd.transfer.v1", ID: "local"}
	for name, tc := range map[string]struct {
		backend backend
		check   string
		level   doctor.Level
		says    string
	}{
		"current":            {backend{name: "containerd", version: "v2.4.2"}, "containerd", doctor.Good, "containerd 2.4.2"},
		"1.7":                {backend{name: "containerd", version: "1.7.35"}, "containerd", doctor.Good, "1.7.35"},
		"too old":            {backend{name: "containerd", version: "1.6.9"}, "containerd", doctor.Bad, "containerd is 1.6.9"},
		"a version in words": {backend{name: "containerd", version: "local"}, "containerd", doctor.Degraded, "calls its version local"},
		"another runtime":    {backend{name: "cri-o", version: "1.36.0"}, "containerd", doctor.Bad, "cri-o 1.36.0 answers"},
		"pulls by itself":    {backend{}, "pull path", doctor.Good, "without a transfer service"},
		"transfer service":   {backend{plugins: []*introspection.Plugin{transfer}}, "pull path", doctor.Good, "has a transfer service"},
		"a transfer that failed": {
			backend{plugins: []*introspection.Plugin{{Type: transfer.Type, ID: "local", InitErr: &rpc.Status{Message: "no unpack platforms"}}}},
			"pull path", doctor.Bad, "no unpack platforms",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			w.runContainerd(t, &tc.backend)
			w.expect(t, tc.check, tc.level, tc.says)
		})
	}
	t.Run("not running", func(t *testing.T) {
		t.Parallel()
		w := newWard(t)
		w.dial(t)
		w.expect(t, "containerd", doctor.Bad, "no CRI at")
		w.expect(t, "pull path", doctor.Degraded, "cannot be listed")
		w.expect(t, "mounts", doctor.Degraded, "containerd's mount namespace")
	})
}

func TestImageVerifiers(t *testing.T) {
	t.Parallel()
	plugin := []*introspection.Plugin{{Type: "io.containerd.image-verifier.v1", ID: "bindir"}}
	for name, tc := range map[string]struct {
		program bool
		plugins []*introspection.Plugin
		level   doctor.Level
		says    string
	}{
		"none":                    {false, nil, doctor.Good, "none"},
		"a directory without any": {false, plugin, doctor.Good, "there are none"},
		"asked by both":           {true, plugin, doctor.Good, "1 program"},
		"containerd asks nobody":  {true, nil, doctor.Degraded, "1 program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			if tc.program {
				w.write(t, "verifiers/list", "#!/bin/sh\n")
			}
			w.runContainerd(t, &backend{plugins: tc.plugins})
			w.expect(t, "image verifiers", tc.level, tc.says)
		})
	}
}

func TestSnapshotter(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "snapshotter", doctor.Good, "overlayfs")
	w.Snapshotter = func(context.Context) error {
		return reason.Errorf(reason.SnapshotterMismatch, "containerd's CRI keeps images in %q", "/erofs")
	}
	w.expect(t, "snapshotter", doctor.Bad, "/erofs")
}

func TestAttachDriver(t *testing.T) {
	t.Parallel()
	no := errors.New("no such device")
	for name, tc := range map[string]struct {
		driver string
		survey []attach.Finding
		level  doctor.Level
		says   string
	}{
		"all of them":        {"auto", []attach.Finding{{Driver: "fuse"}, {Driver: "nbd"}, {Driver: "fanotify", Err: no}}, doctor.Good, "fuse works"},
		"no spare one":       {"auto", []attach.Finding{{Driver: "fuse"}, {Driver: "nbd", Err: no}}, doctor.Good, "fuse works"},
		"an old kernel":      {"auto", []attach.Finding{{Driver: "fuse", Limits: []string{"reads end"}}, {Driver: "nbd"}}, doctor.Degraded, "with limits"},
		"only the second":    {"auto", []attach.Finding{{Driver: "fuse", Err: no}, {Driver: "nbd"}}, doctor.Good, "nbd works"},
		"none":               {"auto", []attach.Finding{{Driver: "fuse", Err: no}, {Driver: "nbd", Err: no}}, doctor.Bad, "no attach driver works"},
		"not the forced one": {"nbd", []attach.Finding{{Driver: "fuse"}, {Driver: "nbd", Err: no}}, doctor.Bad, "no attach driver works"},
		"the unsafe one":     {"fanotify", []attach.Finding{{Driver: "fuse"}, {Driver: "fanotify", Err: no}}, doctor.Bad, "no attach driver works"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			w.Config.Attach.Driver = tc.driver
			w.Survey = func(string) []attach.Finding { return tc.survey }
			w.expect(t, "attach driver", tc.level, tc.says)
		})
	}
}

// The tests' machines mount EROFS, one way or another.
func TestFileSystems(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	newWard(t).expect(t, "file systems", doctor.Good, "EROFS mounts")
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "configuration", doctor.Good, "0 policy blocks")
	w.Problems = []policy.Finding{{Severity: policy.Warning, Key: "policy[0].match", Problem: "can never win"}}
	w.expect(t, "configuration", doctor.Degraded, "policy[0].match: can never win")
	w.Problems = []policy.Finding{{Severity: policy.Error, Key: "trust[0]", Problem: "no such file"}}
	w.expect(t, "configuration", doctor.Bad, "trust[0]: no such file")
}

func TestKubelet(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config string // of the kubelet; "": no kubelet
		level  doctor.Level
		says   string
	}{
		"sent here":         {"imageServiceEndpoint: unix://{dir}/cri.sock\n", doctor.Good, "config.yaml sends it to"},
		"sent nowhere":      {"kind: KubeletConfiguration\n", doctor.Degraded, "its images go where its containers go"},
		"sent elsewhere":    {"imageServiceEndpoint: unix:///other.sock\n", doctor.Degraded, "unix:///other.sock"},
		"another runtime":   {"imageServiceEndpoint: unix://{dir}/cri.sock\ncontainerRuntimeEndpoint: unix:///crio.sock\n", doctor.Bad, "/crio.sock"},
		"not to be read":    {"a: [\n", doctor.Degraded, "read YAML"},
		"no kubelet at all": {"", doctor.Degraded, "there is no kubelet's file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			w.write(t, "node/var/lib/kubelet/config.yaml", strings.ReplaceAll(tc.config, "{dir}", w.dir))
			if tc.config == "" {
				if err := os.Remove(w.path("node/var/lib/kubelet/config.yaml")); err != nil {
					t.Fatal(err)
				}
			}
			w.expect(t, "kubelet", tc.level, tc.says)
		})
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "credentials", doctor.Good, "pulls bring")
	w.Config.Registry.DockerConfig = w.path("docker.json")
	w.expect(t, "credentials", doctor.Degraded, "docker.json")
	w.write(t, "node/etc/default/kubelet", "KUBELET_EXTRA_ARGS=\"--image-credential-provider-config=/etc/cp.yaml --image-credential-provider-bin-dir=/opt/cp\"\n")
	w.expect(t, "credentials", doctor.Degraded, `credential_provider_config = "/etc/cp.yaml" and credential_provider_bin_dir = "/opt/cp"`)
	w.Config.Registry.CredentialProviderConfig, w.Config.Registry.CredentialProviderBinDir = w.path("cp.yaml"), w.dir
	w.expect(t, "credentials", doctor.Degraded, "cp.yaml")
}

func TestRegistryHosts(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "registry hosts", doctor.Good, "0 hosts")
	w.write(t, "certs.d/registry.example/hosts.toml", "server = \"https://registry.example\"\n[host.\"https://mirror.example\"]\n")
	w.write(t, "certs.d/_default/hosts.toml", "[host.\"https://mirror.example\"]\n")
	w.expect(t, "registry hosts", doctor.Good, "2 hosts")
	w.write(t, "certs.d/broken.example/hosts.toml", "[host.\n")
	w.expect(t, "registry hosts", doctor.Bad, "broken.example")
}

func TestDisk(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.Config.Cache.MaxSize.Bytes = 1 << 60
	w.expect(t, "disk", doctor.Degraded, "lower cache.max_size")
}

func TestCRISocket(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "cri socket", doctor.Bad, "is not there")
	w.write(t, "cri.sock", "a file")
	w.expect(t, "cri socket", doctor.Bad, "is no socket")
	if err := os.Remove(w.Config.CRI.Socket); err != nil {
		t.Fatal(err)
	}
	(&backend{}).serve(t, w.Config.CRI.Socket)
	w.expect(t, "cri socket", doctor.Good, "answers")
	if err := os.Chmod(w.Config.CRI.Socket, 0o666); err != nil { //nolint:gosec // the mistake
		t.Fatal(err)
	}
	w.expect(t, "cri socket", doctor.Bad, "has mode 0666")
}

// A socket of a daemon that died refuses.
func TestCRISocketOfADeadDaemon(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.Config.CRI.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(w.Config.CRI.Socket, 0o660), listener.Close()); err != nil { //nolint:gosec // as the unit makes it
		t.Fatal(err)
	}
	w.expect(t, "cri socket", doctor.Bad, "does not answer")
}

// runDaemon answers with what a daemon says of itself.
func (w *ward) runDaemon(t *testing.T, status string) {
	t.Helper()
	listener, err := criimage.Listen(t.Context(), control.Path(w.Config.State))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = control.NewStream(w).Send(json.RawMessage(status))
	})
	go func() { done <- control.Serve(ctx, listener, handler) }() // ends with ctx
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func TestDaemon(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status string // "": it does not run
		level  doctor.Level
		says   string
	}{
		"all right":        {`{"version":"v1","driver":"fuse","volumes":[{"mounted":true}]}`, doctor.Good, "version v1 runs, driver fuse, 1 volume"},
		"none":             {"", doctor.Bad, "does not run"},
		"another version":  {`{"version":"v0","driver":"fuse"}`, doctor.Degraded, "it is version v0, this program v1"},
		"no driver":        {`{"version":"v1","driver":"none","driver_error":"no /dev/fuse"}`, doctor.Bad, "no /dev/fuse"},
		"drained":          {`{"version":"v1","driver":"fuse","draining":true}`, doctor.Degraded, "drain --cancel"},
		"a quarantine":     {`{"version":"v1","driver":"fuse","volumes":[{"id":"abc","reference":"r/app:1","quarantined":true}]}`, doctor.Degraded, "/quarantine/abc.json"},
		"a volume missing": {`{"version":"v1","driver":"fuse","volumes":[{"reference":"r/app:1"}]}`, doctor.Bad, "volume of r/app:1 is not mounted"},
		"a breaker":        {`{"version":"v1","driver":"fuse","breakers":[{"key":"registry r","last":"timeout","open":true}]}`, doctor.Degraded, "registry r failed again and again"},
		"nonsense":         {`[]`, doctor.Bad, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			if tc.status != "" {
				w.runDaemon(t, tc.status)
			}
			w.expect(t, "daemon", tc.level, tc.says)
		})
	}
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.expect(t, "keeper", doctor.Good, "not needed")
	w.runDaemon(t, `{"version":"v1","driver":"fuse"}`)
	w.expect(t, "keeper", doctor.Degraded, "nothing is kept")
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	w.Keeper.Start = func(path string) error {
		go func() { done <- keeper.Serve(ctx, path) }() // ends with ctx
		return nil
	}
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Errorf("keep: %v", err)
		}
	})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := w.Keeper.Keep(t.Context(), null); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "keeper", doctor.Good, "holds the kernel's connection")
}

func TestMounts(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.runContainerd(t, &backend{})
	w.expect(t, "mounts", doctor.Good, "containerd and this shell share a mount namespace")
	w.runDaemon(t, `{}`)
	w.expect(t, "mounts", doctor.Good, "containerd and the daemon share")
}

func TestImage(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.Image = "registry.example/app:1"
	for name, tc := range map[string]struct {
		inspection *negotiate.Inspection
		err        error
		level      doctor.Level
		says       string
	}{
		"lazy":         {&negotiate.Inspection{Outcome: "lazy", Format: "overlaybd"}, nil, doctor.Good, "lazy, as overlaybd"},
		"ordinary":     {&negotiate.Inspection{Outcome: "ordinary", Reason: reason.NotAttachable, Detail: "no reader"}, nil, doctor.Degraded, "no reader"},
		"not answered": {nil, errors.New("connection refused"), doctor.Bad, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			w.Inspect = func(context.Context, string) (*negotiate.Inspection, error) { return tc.inspection, tc.err }
			w.expect(t, "image", tc.level, tc.says)
		})
	}
}

func TestRegistryClock(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		date  string
		level doctor.Level
		says  string
	}{
		"right":    {"", doctor.Good, "agree"},
		"far away": {"Mon, 02 Jan 2006 15:04:05 GMT", doctor.Bad, "apart"},
		"unknown":  {"when it pleases", doctor.Good, "does not tell the time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t)
			reg := regtest.New(t, regtest.Options{})
			if tc.date != "" {
				reg.Inject(regtest.Fault{Match: regtest.Path("/manifests/"), Header: http.Header{"Date": {tc.date}}, Status: http.StatusOK})
			} else {
				reg.Inject(regtest.Fault{Match: regtest.Path("/manifests/"), Status: http.StatusOK})
			}
			w.Registry = registry.New(registry.Options{})
			t.Cleanup(func() { _ = w.Registry.Close() })
			w.Image = reg.Host() + "/app:1"
			w.expect(t, "registry clock", tc.level, tc.says)
		})
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.dial(t)
	report := doctor.Run(t.Context(), "v1", w.Checks())
	if report.Level != doctor.Bad || report.ExitStatus() != 1 {
		t.Errorf("without containerd and daemon it is %s, %d", report.Level, report.ExitStatus())
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "do: systemctl start referee") || !strings.Contains(text.String(), "referee v1: ") {
		t.Errorf("it reads, %v:\n%s", err, text.String())
	}
	for level, want := range map[doctor.Level]int{doctor.Good: 0, doctor.Degraded: 2, doctor.Bad: 1} {
		if got := (&doctor.Report{Level: level}).ExitStatus(); got != want {
			t.Errorf("%s exits with %d, want %d", level, got, want)
		}
	}
}
