package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/awslabs/soci-snapshotter/config"
	"github.com/awslabs/soci-snapshotter/fs"
	"github.com/awslabs/soci-snapshotter/metadata"
	"github.com/awslabs/soci-snapshotter/service"
	"github.com/awslabs/soci-snapshotter/ztoc"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
)

// databaseMap is how much of its metadata the snapshotter maps at first.
const databaseMap = 64 << 20

// serve runs the snapshotter on a socket until ctx ends.
func serve(ctx context.Context, root, socket, file string) error {
	settings, err := config.NewConfigFromToml(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	database, err := bbolt.Open(filepath.Join(root, "metadata.db"), 0o600, &bbolt.Options{
		NoFreelistSync: true, InitialMmapSize: databaseMap, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	defer database.Close()
	store := func(layer *io.SectionReader, toc ztoc.TOC, opts ...metadata.Option) (metadata.Reader, error) {
		return metadata.NewReader(database, layer, toc, opts...)
	}
	snapshotter, err := service.NewSociSnapshotterService(ctx, root, &settings.ServiceConfig,
		service.WithFilesystemOptions(fs.WithMetadataStore(store)))
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
