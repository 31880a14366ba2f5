package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/control"
)

func statusCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	var watch time.Duration
	command := &cobra.Command{
		Use:   "status",
		Short: "Say what the daemon holds: volumes, cache, disk, breakers",
		Long: `Say what the daemon holds: volumes and how much of them is here, cache, disk, and
registries that failed lately. With --watch the screen is drawn again and again, and
the daemon may be restarted meanwhile; as JSON it is then one value a line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			client := controlClient(config)
			if watch > 0 {
				return watchStatus(cmd.Context(), cmd.OutOrStdout(), client, output, watch)
			}
			s, err := askStatus(cmd.Context(), client)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return s.write(cmd.OutOrStdout())
		},
	}
	outputFlag(command, &output)
	command.Flags().DurationVar(&watch, "watch", 0, "again and again, so often")
	command.Flags().Lookup("watch").NoOptDefVal = "2s"
	return command
}

func askStatus(ctx context.Context, client control.Client) (*status, error) {
	s := new(status)
	err := client.Do(ctx, http.MethodGet, "/v1/status", func(line json.RawMessage) error { return json.Unmarshal(line, s) })
	return s, err
}

// watchStatus shows the status until ctx ends.
func watchStatus(ctx context.Context, w io.Writer, client control.Client, output string, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		s, err := askStatus(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if output == "json" {
			if err == nil {
				err = json.NewEncoder(w).Encode(s)
			}
			if err != nil {
				return err
			}
		} else if err := draw(w, s, err, every); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// What a terminal understands (ECMA-48): the cursor into the corner, the rest of a
// line or of the screen emptied. Drawing over what is there does not flicker.
const (
	cursorHome = "\x1b[H"
	eraseLine  = "\x1b[K\n"
	eraseBelow = "\x1b[J"
)

// draw draws one screen, at once.
func draw(w io.Writer, s *status, problem error, every time.Duration) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "every %s, ctrl-C ends    %s\n\n", every, time.Now().Format(time.TimeOnly))
	if problem != nil {
		fmt.Fprintln(&text, oneLine(problem))
	} else if err := s.write(&text); err != nil {
		return err
	}
	_, err := io.WriteString(w, cursorHome+strings.ReplaceAll(text.String(), "\n", eraseLine)+eraseBelow)
	return err
}
