package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
)

func inspectCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output, platform string
	command := &cobra.Command{
		Use:   "inspect REF",
		Short: "Draw what is attached to an image, what would be used here, and why not the rest",
		Long: `Draw the tree of what is attached to an image: its accelerated forms, their
signatures, and everything else. The form that a pull would use under this
node's policy is marked, for every other one the reason is given.

It asks the registry alone, with this node's hosts, credentials and policy, and
needs neither containerd nor the daemon.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			request := negotiate.Request{Reference: args[0]}
			if request.Platform, err = platformOf(platform); err != nil {
				return err
			}
			inspection, err := inspect(cmd.Context(), config, request)
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(inspection)
			}
			return inspection.WriteText(cmd.OutOrStdout())
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json")
	command.Flags().StringVar(&platform, "platform", "", "for this platform, such as linux/arm64 (default: this machine's)")
	return command
}

func platformOf(name string) (*ocispec.Platform, error) {
	if name == "" {
		return nil, nil
	}
	parsed, err := platforms.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", name, err)
	}
	return &parsed, nil
}

func inspect(ctx context.Context, config *configs.Config, request negotiate.Request) (*negotiate.Inspection, error) {
	log := zap.NewNop()
	client := openRegistries(config, nil, log)
	defer func() { _ = client.Close() }()
	verify, err := imageVerifier(config)
	if err != nil {
		return nil, err
	}
	negotiator := negotiate.New(negotiate.Options{
		Client: client.Client, Policy: newPolicy(config, log), Attachable: canRead, VerifyImage: verify,
		DiscoveryTimeout: config.Pull.NegotiateTimeout.Duration, Log: log,
	})
	defer negotiator.Close()
	return negotiator.Inspect(ctx, request)
}

// canRead tells what this version has no reader for.
func canRead(format string) error {
	if formats(nil)[format] == nil {
		return reason.Errorf(reason.NotAttachable, "this version has no reader for %s", format)
	}
	return nil
}
