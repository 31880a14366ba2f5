package main

import (
	"context"
	"path/filepath"
	"sync"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/graft"
)

// snapshotterCheck makes sure that containerd's CRI pulls into the snapshotter
// that grafts go to. A configuration that says otherwise needs a restart of
// containerd, so what was found right stays right for this process's
// connection; what was found wrong is looked at again with every pull.
type snapshotterCheck struct {
	images  runtime.ImageServiceClient
	grafter *graft.Grafter

	mu    sync.Mutex
	known bool
}

func (c *snapshotterCheck) verify(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	if c.grafter.Root() == "" {
		if err := c.grafter.Check(ctx); err != nil {
			return err
		}
	}
	info, err := c.images.ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{})
	if err != nil {
		return reason.Errorf(reason.SnapshotterMismatch, "ask containerd where images are: %w", err)
	}
	// The first file system is that of CRI's own snapshotter; the kubelet relies
	// on the same order.
	var first string
	if systems := info.GetImageFilesystems(); len(systems) > 0 {
		first = systems[0].GetFsId().GetMountpoint()
	}
	if grafts := filepath.Dir(c.grafter.Root()); first != grafts {
		return reason.Errorf(reason.SnapshotterMismatch, "containerd's CRI keeps images in %q, grafts go to %q", first, grafts)
	}
	c.known = true
	return nil
}
