package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/trace"
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
			startup := startupOf(traceOf(config, &entry))
			completed := completionOf(config, &entry)
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(explanation{&entry, startup, completed})
			}
			if err := entry.WriteText(cmd.OutOrStdout()); err != nil {
				return err
			}
			if startup != nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "\n"+startup.text())
			}
			if err == nil && completed != nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "\n"+completed.text())
			}
			return err
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json")
	return command
}

// explanation is what is told of a pull.
type explanation struct {
	*fallback.Entry

	Startup    *startup    `json:"startup,omitempty"`
	Completion *completion `json:"completion,omitempty"`
}

// startup is what is known about starts of the form that was attached.
type startup struct {
	Recordings int           `json:"recordings"` // starts that have added to the trace
	Ranges     int           `json:"ranges"`
	Bytes      int64         `json:"bytes"`
	From       string        `json:"from,omitempty"`     // "referrer": another node recorded what it began with
	Replayed   *trace.Replay `json:"replayed,omitempty"` // the last time
}

func startupOf(t *trace.Trace) *startup {
	if t == nil {
		return nil
	}
	return &startup{Recordings: t.Recordings, Ranges: len(t.Ranges), Bytes: t.Bytes(), From: t.From, Replayed: t.Replayed}
}

func (s *startup) text() string {
	text := fmt.Sprintf("start-up trace: %d ranges, %d bytes, of %d starts", s.Ranges, s.Bytes, s.Recordings)
	if s.From == trace.FromReferrer {
		text += ", begun by another node's"
	}
	if r := s.Replayed; r != nil {
		text += fmt.Sprintf("\nlast replayed %s: %d requests, %d bytes, %.2f s", r.Time.Format(time.DateTime+" MST"), r.Requests, r.Bytes, r.Seconds)
		if r.Error != "" {
			text += fmt.Sprintf(", ended by %q", r.Error)
		}
	}
	return text
}
