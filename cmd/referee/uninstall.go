package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/install"
)

// uninstallation is one run of `referee uninstall`.
type uninstallation struct {
	root            string
	dryRun, noStart bool
	force, purge    bool
	timeout         time.Duration
}

func (u *uninstallation) run(cmd *cobra.Command) error {
	leave, err := install.NewLeave(u.root)
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	config, err := u.config()
	if err != nil {
		return err
	}
	if leave.Installed() && !u.force && !u.dryRun {
		if err := u.drain(cmd, config); err != nil {
			return fmt.Errorf("uninstall, nothing is changed: %w", err)
		}
	}
	if err := leave.WriteText(cmd.OutOrStdout()); err != nil || u.dryRun {
		return err
	}
	if err := withServices(cmd, u.root, u.noStart, leave.Apply); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	return u.remove(leave.Installed(), config)
}

// remove removes the state of a daemon that was stopped, of which nothing outlives
// it, and with --purge the data.
func (u *uninstallation) remove(installed bool, config *configs.Config) error {
	var gone []string
	stopped := installed && !u.noStart && install.Running(u.root)
	if u.purge || stopped && !u.force { // forced: volumes may still be mounted
		gone = append(gone, config.State)
	}
	if u.purge {
		gone = append(gone, config.Root, config.CacheDir())
	}
	return install.Purge(u.root, gone...)
}

// config is the node's, or the default where that cannot be read.
func (u *uninstallation) config() (*configs.Config, error) {
	config, err := configs.Load(filepath.Join(u.root, install.ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return configs.Default(), nil
	}
	if err != nil && !u.force {
		return nil, fmt.Errorf("%w (--force takes the default configuration instead)", err)
	}
	if err != nil {
		return configs.Default(), nil //nolint:nilerr // forced
	}
	return config, nil
}

// drain returns nil if neither an image nor a container needs the daemon.
func (u *uninstallation) drain(cmd *cobra.Command, config *configs.Config) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), u.timeout)
	defer cancel()
	client := control.Client{Path: control.Path(filepath.Join(u.root, config.State))}
	query, err := drainQuery(nil, u.timeout)
	if err != nil {
		return err
	}
	end, err := drainNode(ctx, client, query, "text", cmd.OutOrStdout())
	if errors.Is(err, control.ErrNoDaemon) {
		return u.undrained(config)
	}
	if err == nil {
		err = errors.Join(end.err(), end.held())
	}
	if err != nil {
		_ = client.Do(context.WithoutCancel(ctx), http.MethodDelete, "/v1/drain", func(json.RawMessage) error { return nil })
		return err
	}
	return nil
}

// held says which running containers would lose their files.
func (end *drainEnd) held() error {
	if len(end.Held) == 0 {
		return nil
	}
	images := make([]string, 0, len(end.Held))
	for _, h := range end.Held {
		images = append(images, h.Reference)
	}
	return fmt.Errorf("running containers still read what Referee serves, begun from %s: restart their pods (kubectl drain), then try again", strings.Join(images, ", "))
}

// undrained is nil if there is nothing that a daemon would have to drain.
func (u *uninstallation) undrained(config *configs.Config) error {
	records, err := os.ReadDir(filepath.Join(u.root, config.Root, "volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for attached images: %w", err)
	}
	for _, record := range records {
		if filepath.Ext(record.Name()) == ".json" {
			return errNotDrained
		}
	}
	return nil
}
