package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/internal/install"
)

// servicesTimeout bounds all that systemd is asked for: the daemon may take
// TimeoutStartSec= of its unit, the kubelet as long.
const servicesTimeout = 5 * time.Minute

func installCommand() *cobra.Command {
	var opts install.Options
	var dryRun, noStart bool
	var config string
	command := &cobra.Command{
		Use:   "install",
		Short: "Put Referee on this node and send the kubelet to it",
		Long: `Put Referee on this node: this program, systemd's units and the configuration,
and, once the daemon answers, one setting of the kubelet's and of crictl's. Every
change is shown, files of others with a diff. What was there before is kept below
/var/lib/referee; "referee uninstall" brings it back.

What an operator wrote wins: a configuration or unit that exists is kept. Running
it again changes what differs, so this is also how to upgrade. Where one change
cannot be made, or the daemon or the kubelet does not start with it, all are undone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := runningBinary(&opts); err != nil {
				return err
			}
			if config != "" {
				var err error
				if opts.Config, err = os.ReadFile(config); err != nil {
					return fmt.Errorf("install: %w", err)
				}
			}
			plan, err := install.NewPlan(opts)
			if err != nil {
				return fmt.Errorf("install: %w", err)
			}
			if err := plan.WriteText(cmd.OutOrStdout()); err != nil || dryRun {
				return err
			}
			return withServices(cmd, opts.Root, noStart, func(ctx context.Context, services install.Services) error {
				if err := plan.Apply(ctx, services); err != nil {
					return fmt.Errorf("install: %w", err)
				}
				return nil
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&opts.Root, "root", "/", "the node's file system")
	flags.StringVar(&opts.Prefix, "prefix", install.Prefix, "bin/referee goes below it")
	flags.StringVar(&config, "with-config", "", "this file is the configuration, unless an operator wrote one on the node")
	flags.BoolVar(&opts.Kubelet, "kubelet", true, "send the kubelet to Referee")
	flags.StringVar(&opts.KubeletConfigDir, "kubelet-config-dir", "", "the kubelet's --config-dir, where nothing on the node tells")
	flags.BoolVar(&opts.Crictl, "crictl", true, "send crictl to Referee")
	flags.BoolVar(&dryRun, "dry-run", false, "only say what would be changed")
	flags.BoolVar(&noStart, "no-start", false, "start and restart nothing")
	return command
}

// runningBinary reads this very program. One that a package put on the node
// stays where it is.
func runningBinary(opts *install.Options) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if onNode, is := strings.CutPrefix(path, strings.TrimSuffix(opts.Root, "/")); is && strings.HasPrefix(onNode, "/usr/bin/") {
		opts.Running = onNode
	}
	if opts.Binary, err = os.ReadFile(path); err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	opts.Version = version
	return nil
}

// withServices calls do with the node's service manager, or with none where it
// does not run or is to be left alone.
func withServices(cmd *cobra.Command, root string, noStart bool, do func(context.Context, install.Services) error) error {
	if noStart || !install.Running(root) {
		if !noStart {
			fmt.Fprintln(cmd.OutOrStdout(), "note    systemd does not run here: nothing is started or stopped")
		}
		return do(cmd.Context(), install.Idle{})
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), servicesTimeout)
	defer cancel()
	services, err := install.OpenSystemd(ctx, root)
	if err != nil {
		return err
	}
	defer services.Close()
	return do(ctx, services)
}

func uninstallCommand() *cobra.Command {
	u := uninstallation{}
	command := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Referee away from this node again",
		Long: `Drain the node, so that no image needs Referee any more, and then take back
exactly what "referee install" did. Files that were edited since are left, but for
the setting that sends calls to Referee. Nothing is changed where draining fails or
running containers still read a lazy image: replace them, or use --force.

Data stays in /var/lib/referee unless --purge is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd) },
	}
	flags := command.Flags()
	flags.StringVar(&u.root, "root", "/", "the node's file system")
	flags.BoolVar(&u.dryRun, "dry-run", false, "only say what would be changed")
	flags.BoolVar(&u.noStart, "no-start", false, "stop and restart nothing")
	flags.BoolVar(&u.force, "force", false, "do not drain: containers of lazy images break")
	flags.BoolVar(&u.purge, "purge", false, "remove data, too: the journal, traces, the cache")
	flags.DurationVar(&u.timeout, "drain-timeout", 10*time.Minute, "how long draining may take")
	return command
}

var errNotDrained = errors.New("the node was not drained: start the daemon, or use --force")
