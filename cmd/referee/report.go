package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/report"
)

func reportCommand(load func() (*configs.Config, error)) *cobra.Command {
	var file string
	command := &cobra.Command{
		Use:   "report REF|ID",
		Short: "Draw the last pull of an image, and what its start read, as one page",
		Long: `Draw the last pull of an image as one page of HTML that needs no network: the time
line of the pull, what the start read and when, bytes fetched against those of the
image, and everything that explain tells.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			e, err := explain(cmd.Context(), config, args[0])
			if err != nil {
				return err
			}
			var page bytes.Buffer
			if err := report.Write(&page, reportData(config, e)); err != nil {
				return err
			}
			if file == "-" {
				_, err = cmd.OutOrStdout().Write(page.Bytes())
				return err
			}
			if err := atomicfile.Write(file, page.Bytes(), 0o644); err != nil {
				return fmt.Errorf("write report: %w", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
			return err
		},
	}
	command.Flags().StringVarP(&file, "file", "o", "report.html", `file to write; "-": standard output`)
	return command
}

func reportData(config *configs.Config, e *explanation) report.Data {
	node, err := os.Hostname()
	if err != nil {
		node = ""
	}
	others, _ := fallback.ReadJournal(journalDir(config)).All() // what can be read is compared with
	data := report.Data{
		Made: time.Now(), Version: version, Node: node, Entry: e.Entry, Trace: traceOf(config, e.Entry),
		Unknown: e.NowUnknown, Ordinary: report.Compare(e.Entry, others),
	}
	if e.Completion != nil {
		data.Complete = e.Completion.text()
	}
	if v := e.Now; v != nil {
		data.Volume = &report.Volume{State: v.state(), Size: v.Size, Here: v.Cached, Fetched: v.Fetched, Requests: v.Requests}
	}
	return data
}
