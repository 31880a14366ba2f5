package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/logging"
)

// logLevel is what the daemon answers about its log.
type logLevel struct {
	Level      string `json:"level"`      // now
	Configured string `json:"configured"` // after a restart
}

func logLevelCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "log-level [debug|info|warn|error|reset]",
		Short: "Say what the daemon logs, or change it until it is restarted",
		Long: `Say from which level on the daemon logs, or change that until it is restarted;
"reset" is what the configuration has. The signal SIGUSR1 switches between debug
and that, too.`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error", "reset"},
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			method, target := http.MethodGet, "/v1/log-level"
			if len(args) > 0 {
				method, target = http.MethodPut, target+"?level="+url.QueryEscape(args[0])
			}
			var level logLevel
			err = controlClient(config).Do(cmd.Context(), method, target, func(line json.RawMessage) error { return json.Unmarshal(line, &level) })
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), level)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s (configured: %s)\n", level.Level, level.Configured)
			return err
		},
	}
	outputFlag(command, &output)
	return command
}

// handleLogLevel answers what the level is, after changing it where asked to.
func handleLogLevel(w http.ResponseWriter, r *http.Request, level *logging.Level, log *zap.Logger) {
	if r.Method == http.MethodPut {
		name := r.URL.Query().Get("level")
		if name == "reset" {
			name = level.Configured()
		}
		if err := level.Set(name); err != nil {
			control.Fail(w, http.StatusBadRequest, err)
			return
		}
		log.Warn("log level changed", zap.Stringer("level", level))
	}
	_ = control.NewStream(w).Send(logLevel{level.String(), level.Configured()}) // nobody to tell
}

// toggleLogLevel has SIGUSR1 switch debugging on and off until ctx ends.
func toggleLogLevel(ctx context.Context, level *logging.Level, log *zap.Logger) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			level.Toggle()
			log.Warn("log level changed", zap.Stringer("level", level))
		}
	}
}
