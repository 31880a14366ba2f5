package main

import (
	"context"
	"fmt"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/plugincore"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
)

// serve runs the snapshotter on a socket until ctx ends.
func serve(ctx context.Context, root, socket, file string) error {
	var config plugincore.Config
	config.DirectoryCacheConfig.Direct = true // the default that its documentation names
	text, err := os.ReadFile(file)
	if err == nil {
		err = toml.Unmarshal(text, &config)
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if config.LogFileAccess { // what it logs of them is of that level
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &config.Config,
		service.WithCustomRegistryHosts(resolver.RegistryHostsFromCRIConfig(ctx, config.Registry)),
		service.WithFilesystemOptions(fs.WithMetricsLogLevel(log.InfoLevel)))
	if err != nil {
		return fmt.Errorf("start snapshotter: %w", err)
	}
	// It is not closed: closing removes the snapshots that containerd knows of.
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	if err := os.RemoveAll(socket); err != nil {
		return fmt.Errorf("remove old socket: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(listener)
}
