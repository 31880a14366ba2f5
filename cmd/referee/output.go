package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"
)

// outputFlag gives a command the flag that every one that tells something has.
func outputFlag(command *cobra.Command, output *string) {
	command.Flags().StringVar(output, "output", "text", "text or json")
}

// writeJSON writes one value for programs, and people who look at it.
func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
