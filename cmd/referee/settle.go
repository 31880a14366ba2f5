package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/format/span"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// deviceFiles keeps devices of volumes in the cache, within its bounds and counted
// with all else that is there.
type deviceFiles struct{ cache *cache.Store }

var (
	_ volume.Files = deviceFiles{}
	_ volume.File  = (*cache.Blob)(nil)
)

func (f deviceFiles) Open(device string, size int64, source lazyblock.RangeReader) (volume.File, error) {
	return f.cache.Blob(ocispec.Descriptor{Digest: deviceDigest(device), Size: size}, source)
}

// maxDevices is more than any volume has: one for each layer and one.
const maxDevices = 512

func (f deviceFiles) Remove(id string) error {
	var errs []error
	for i := range maxDevices {
		errs = append(errs, f.cache.Remove(deviceDigest(volume.DeviceName(id, i))))
	}
	return errors.Join(errs...)
}

// deviceDigest names a device in the cache.
func deviceDigest(device string) digest.Digest { return digest.FromString("device " + device) }

// scratchIn makes room in the cache for what was decoded.
func scratchIn(c *cache.Store) func() (span.Scratch, error) {
	return func() (span.Scratch, error) {
		file, err := c.Scratch()
		if err != nil {
			return nil, err
		}
		return file, nil
	}
}

// settling has a whole volume copied to files, where the configuration wants that,
// and mounted from them soon.
func settling(config *configs.Config, d *daemonParts) complete.Settle {
	if !config.Completion.Settle {
		return nil
	}
	return func(ctx context.Context, id string, pace func(ctx context.Context, n int64) error) error {
		select { // the node is put together around the companion
		case <-d.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := d.volumes.Settle(ctx, id, d.cache.Spare, pace); err != nil {
			return fmt.Errorf("copy its devices: %w", err)
		}
		d.host.Settled()
		return nil
	}
}
