package charts

import (
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/getter"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	strict "sigs.k8s.io/yaml"
)

// cluster is a Kubernetes that agrees to everything, and notes the kinds of what Helm
// creates, waits for and takes away, in order.
type cluster struct {
	fake.PrintingKubeClient

	config *action.Configuration
	events []string
	built  string // the kinds of the manifest that Helm has read last
	stuck  error  // what waiting for a Job ends with
}

func newCluster() *cluster {
	c := &cluster{PrintingKubeClient: fake.PrintingKubeClient{Out: io.Discard, LogOutput: io.Discard}}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.33.0", Major: "1", Minor: "33"}
	c.config = &action.Configuration{
		Releases: storage.Init(driver.NewMemory()), KubeClient: c, Capabilities: capabilities, Log: func(string, ...any) {},
	}
	return c
}

func (c *cluster) Build(r io.Reader, _ bool) (kube.ResourceList, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var kinds []string
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var object struct{ Kind string }
		if err := strict.Unmarshal([]byte(document), &object); err != nil {
			return nil, err
		}
		if object.Kind != "" {
			kinds = append(kinds, object.Kind)
		}
	}
	c.built = strings.Join(kinds, "+")
	if slices.Contains(kinds, "DaemonSet") {
		c.events = append(c.events, "read "+c.built)
	}
	return kube.ResourceList{}, nil
}

func (c *cluster) Create(list kube.ResourceList) (*kube.Result, error) {
	c.events = append(c.events, "create "+c.built)
	return c.PrintingKubeClient.Create(list)
}

func (c *cluster) WatchUntilReady(_ kube.ResourceList, _ time.Duration) error {
	if c.built == "Job" {
		c.events = append(c.events, "wait for Job")
		return c.stuck
	}
	return nil
}

// helm does what the program of that name does with such words.
func (c *cluster) helm(words ...string) error {
	flags := pflag.NewFlagSet("helm", pflag.ContinueOnError)
	namespace, wait, reuse := flags.String("namespace", "default", ""), flags.Bool("wait", false, ""), flags.Bool("reuse-values", false, "")
	noHooks, timeout := flags.Bool("no-hooks", false, ""), flags.Duration("timeout", 5*time.Minute, "")
	var given values.Options
	flags.StringArrayVar(&given.Values, "set", nil, "")
	if err := flags.Parse(words); err != nil {
		return err
	}
	set, err := given.MergeValues(getter.Providers{})
	if err != nil {
		return err
	}
	verb, args := flags.Arg(0), flags.Args()[1:]
	if len(args) != map[string]int{"install": 2, "upgrade": 2, "uninstall": 1, "rollback": 1}[verb] {
		return fmt.Errorf("helm %s with %q", verb, args)
	}
	switch verb {
	case "uninstall":
		u := action.NewUninstall(c.config)
		u.Wait, u.Timeout, u.DisableHooks = *wait, *timeout, *noHooks
		_, err = u.Run(args[0])
		return err
	case "rollback":
		r := action.NewRollback(c.config)
		r.Version = 1
		return r.Run(args[0])
	}
	// The documents are for the checkout, one folder up.
	chart, err := loader.Load(strings.TrimPrefix(args[1], "./charts/"))
	if err != nil {
		return err
	}
	if verb == "upgrade" {
		u := action.NewUpgrade(c.config)
		u.Namespace, u.Wait, u.Timeout, u.ReuseValues = *namespace, *wait, *timeout, *reuse
		_, err = u.Run(args[0], chart, set)
		return err
	}
	i := action.NewInstall(c.config)
	i.ReleaseName, i.Namespace, i.Wait, i.Timeout = args[0], *namespace, *wait, *timeout
	_, err = i.Run(chart, set)
	return err
}

// TestDocumentedCommands runs the documents' commands, and those that the chart itself
// tells who has installed it, each with a cluster that has the release, or not yet.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	listed, err := exec.CommandContext(t.Context(), "go", "-C", "..", "run", "./e2e/documents/list", "helm").Output()
	if err != nil {
		t.Fatal(err)
	}
	commands := strings.Split(strings.TrimSpace(string(listed)), "\n")
	for _, values := range []map[string]any{nil, {"mode": "uninstall"}, {"uninstall": map[string]any{"onRemoval": false}}} {
		manifests, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(manifests["NOTES.txt"]) {
			if at := strings.Index(line, "helm "); at >= 0 {
				commands = append(commands, "NOTES.txt\t"+strings.ReplaceAll(strings.TrimSpace(line[at:]), "lazy referee", "lazy ./charts/referee"))
			}
		}
	}
	if len(commands) < 7 {
		t.Errorf("only %d commands: %q", len(commands), commands)
	}
	for _, command := range commands {
		where, typed, _ := strings.Cut(command, "\t")
		words := strings.Fields(typed)
		c := newCluster()
		if words[1] != "install" {
			if err := c.helm("install", words[2], "./charts/referee"); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.helm(words[1:]...); err != nil {
			t.Errorf("%s: %q: %v", where, typed, err)
		}
	}
}
