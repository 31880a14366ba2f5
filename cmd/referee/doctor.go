package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/doctor"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/negotiate"
)

func doctorCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "doctor [IMAGE]",
		Short: "Say what keeps this node's pulls from being lazy, and what to do",
		Long: `Look at this node: kernel, containerd, kubelet, sockets, disk, clock, registries
and, where it runs, the daemon; with an image also at what its registry has
attached. Each line says what was found; what is not good also says what follows
from it and what to do. It needs root, and no running daemon.

The exit status is 0 if all is good, 1 if something is bad (pulls fail, or are
ordinary), 2 if something is degraded (it works, with less than it could).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, end, err := newPatient(load)
			if err != nil {
				return err
			}
			defer end()
			if len(args) > 0 {
				node.Image = args[0]
			}
			report := doctor.Run(cmd.Context(), version, node.Checks())
			if err := writeReport(cmd, report, output); err != nil {
				return err
			}
			if status := report.ExitStatus(); status != 0 {
				return exitStatus(status)
			}
			return nil
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json")
	return command
}

func writeReport(cmd *cobra.Command, report *doctor.Report, output string) error {
	if output != "json" {
		return report.WriteText(cmd.OutOrStdout())
	}
	encoder := json.NewEncoder(cmd.OutOrStdout())
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// newPatient is the node as the daemon would see it. A configuration that cannot
// be used is a finding, and the default stands in for it.
func newPatient(load func() (*configs.Config, error)) (node *doctor.Node, end func(), err error) {
	log := zap.NewNop()
	config, err := load()
	node = &doctor.Node{Version: version, Survey: attach.Survey}
	if err != nil {
		config = configs.Default()
		node.Problems = invalid(err)
		if errors.Is(err, fs.ErrNotExist) {
			node.Problems[0].Problem += "; the default is looked at"
		}
	} else {
		node.Problems = check(load, nil).Findings
	}
	node.Config = config
	registries := openRegistries(config, nil, log)
	node.Registry, node.Keeper = registries.Client, keeperOf(config)
	node.Inspect = func(ctx context.Context, ref string) (*negotiate.Inspection, error) {
		return inspect(ctx, config, negotiate.Request{Reference: ref})
	}
	backend, err := criimage.Dial(config.CRI.Backend)
	if err != nil {
		return nil, nil, errors.Join(err, registries.Close())
	}
	containerd, err := criimage.Dial(config.ContainerdAddress())
	if err != nil {
		return nil, nil, errors.Join(err, registries.Close(), backend.Close())
	}
	node.Backend, node.Containerd = backend, containerd
	node.Snapshotter = func(ctx context.Context) error {
		grafter := graft.New(graft.Options{
			Conn: containerd, Namespace: config.Containerd.Namespace, Snapshotter: snapshotter, VolumesDir: config.State + "/volumes", Log: log,
		})
		return (&snapshotterCheck{images: runtime.NewImageServiceClient(backend), grafter: grafter}).verify(ctx)
	}
	return node, func() { _, _, _ = registries.Close(), backend.Close(), containerd.Close() }, nil
}
