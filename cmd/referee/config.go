package main

import (
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
)

func configCommand(load func() (*configs.Config, error)) *cobra.Command {
	command := &cobra.Command{Use: "config", Short: "Show or check the configuration"}
	command.AddCommand(
		&cobra.Command{
			Use:   "default",
			Short: "Print the commented default configuration",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := cmd.OutOrStdout().Write(configs.DefaultTOML)
				return err
			},
		},
		checkCommand(load),
		&cobra.Command{
			Use:   "dump",
			Short: "Print the configuration in force, defaults included",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				config, err := load()
				if err != nil {
					return err
				}
				return toml.NewEncoder(cmd.OutOrStdout()).Encode(config)
			},
		},
	)
	return command
}
