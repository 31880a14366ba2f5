package attach

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach/fuse"
)

// fuseDriver serves each device as one file of a private FUSE directory. EROFS
// is mounted from the file itself where the kernel can (Linux 6.12); anything
// else goes through a read-only loop device.
type fuseDriver struct {
	server *fuse.Server
	log    *zap.Logger
}

var _ Driver = (*fuseDriver)(nil)

// NewFUSE mounts a FUSE directory at dir and returns the driver that uses it.
// What a former process left mounted there is detached.
func NewFUSE(dir string, log *zap.Logger) (Driver, error) {
	server, err := fuse.Mount(dir, fuse.Options{Log: log})
	if err != nil {
		return nil, err
	}
	return &fuseDriver{server: server, log: log}, nil
}

func (d *fuseDriver) Name() string { return "fuse" }

func (d *fuseDriver) Attach(ctx context.Context, id string, volume lazyblock.Volume, target string) error {
	primary, err := d.server.Add(id, volume.Primary)
	if err != nil {
		return reason.Wrap(reason.AttachFailed, err)
	}
	opts := append(options(volume.FSType), volume.Options...)
	for i, device := range volume.Extra {
		path, err := d.server.Add(extraName(id, i), device)
		if err != nil {
			d.remove(id)
			return reason.Wrap(reason.AttachFailed, err)
		}
		opts = append(opts, "device="+path)
	}
	// The kernel reads the superblock inside mount(2). If ctx ends first, failing
	// those reads is the only way to make it return.
	stop := context.AfterFunc(ctx, func() { d.remove(id) })
	err = mount(primary, target, volume.FSType, strings.Join(opts, ","))
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		d.remove(id)
		return reason.Wrap(attachReason(ctx), fmt.Errorf("attach volume %s: %w", id, err))
	}
	return nil
}

func (d *fuseDriver) Detach(id string, target string) error {
	err := Unmount(target)
	d.remove(id)
	return err
}

func (d *fuseDriver) Close() error { return d.server.Abandon() }

// remove stops serving the primary device and whatever extra devices there are.
func (d *fuseDriver) remove(id string) {
	d.server.Remove(id)
	for i := 0; d.server.Has(extraName(id, i)); i++ {
		d.server.Remove(extraName(id, i))
	}
}

func extraName(id string, slot int) string { return fmt.Sprintf("%s.%d", id, slot+1) }

func attachReason(ctx context.Context) reason.Code {
	if err := ctx.Err(); err != nil {
		return reason.Of(err)
	}
	return reason.AttachFailed
}

// mount mounts the file read-only: directly, or through a loop device where the
// file system or the kernel needs a block device.
func mount(file, target, fsType, data string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOATIME
	if fsType == "erofs" {
		err := unix.Mount(file, target, fsType, flags, data)
		if !errors.Is(err, unix.ENOTBLK) { // before Linux 6.12 only block devices can be mounted
			return wrapMount(err, file, fsType)
		}
	}
	loop, err := attachLoop(file)
	if err != nil {
		return err
	}
	defer func() { _ = loop.Close() }() // autoclear: the mount holds the device from now on, or nobody does
	return wrapMount(unix.Mount(loop.Name(), target, fsType, flags, data), file, fsType)
}

func wrapMount(err error, file, fsType string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mount %s as %s: %w", file, fsType, err)
}
