package main

import (
	"encoding/json"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
)

func journalDir(config *configs.Config) string { return filepath.Join(config.Root, "journal") }

func openJournal(config *configs.Config) (*fallback.Journal, error) {
	return fallback.OpenJournal(journalDir(config))
}

func explainCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "explain REF|ID",
		Short: "Say what was decided at the last pull of an image, and why",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			entry, err := fallback.ReadJournal(journalDir(config)).Last(args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(entry)
			}
			return entry.WriteText(cmd.OutOrStdout())
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json")
	return command
}
