// Command referee is the daemon and its command line. It only wires the parts
// together; what they do is in the folders beside cmd.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = "development" //nolint:gochecknoglobals // the linker needs a variable

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	var status exitStatus
	if errors.As(err, &status) {
		os.Exit(int(status))
	}
	fmt.Fprintln(os.Stderr, "referee:", err)
	os.Exit(1)
}

// exitStatus ends the program with that status; what there is to say was said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "referee",
		Short:         "Attach the accelerated form of an image that this node can use, under its unchanged reference",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var configPath string
	root.PersistentFlags().StringVar(&configPath, "config", defaultConfigPath, "configuration file")
	load := func() (*configs.Config, error) { return loadConfig(configPath) }
	root.AddCommand(
		serveCommand(load),
		inspectCommand(load),
		explainCommand(load),
		statusCommand(load),
		drainCommand(load),
		convertCommand(load),
		traceCommand(load),
		configCommand(load),
		doctorCommand(load),
		installCommand(),
		uninstallCommand(),
		logLevelCommand(load),
		reportCommand(load),
		keepCommand(),
		manualCommand(),
	)
	return root
}

const defaultConfigPath = "/etc/referee/config.toml"

// loadConfig reads the file at path. A node without the default file runs with
// the defaults; any other missing file is an error.
func loadConfig(path string) (*configs.Config, error) {
	if _, err := os.Stat(path); path == defaultConfigPath && os.IsNotExist(err) {
		return configs.Default(), nil
	}
	return configs.Load(path)
}
