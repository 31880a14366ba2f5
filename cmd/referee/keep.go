package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/keeper"
)

// keepCommand is run by the daemon, not by people.
func keepCommand() *cobra.Command {
	var socket string
	command := &cobra.Command{
		Use:    "keep",
		Short:  "Hold the daemon's kernel connection while it restarts",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return keeper.Serve(cmd.Context(), socket) },
	}
	command.Flags().StringVar(&socket, "socket", "", "where to listen")
	return command
}

func keeperOf(config *configs.Config) keeper.Client {
	return keeper.Client{Path: filepath.Join(config.State, "keeper.sock"), Start: startKeeper}
}

// startKeeper starts the keeper in a session of its own. It outlives the daemon
// where the service manager ends only the main process (KillMode=process).
func startKeeper(path string) error {
	// Not a context's command: the process must not end with this one.
	command := exec.Command("/proc/self/exe", "keep", "--socket", path) //nolint:noctx,gosec // see above
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("run keeper: %w", err)
	}
	go func() { _ = command.Wait() }() // ends with the keeper; reaps it if that is before us
	return nil
}
