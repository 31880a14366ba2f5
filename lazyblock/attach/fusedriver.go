package attach

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
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
	server  *fuse.Server
	resumed bool // the connection is a former process's, and so may be mounts over it
}

var _ Driver = (*fuseDriver)(nil)

// Keeper holds a descriptor for the time between two processes.
type Keeper interface {
	// Take returns a duplicate of the descriptor that is kept, nil if there is none.
	Take(ctx context.Context) (*os.File, error)
	// Keep keeps a duplicate of f in place of what was kept.
	Keep(ctx context.Context, f *os.File) error
}

// NewFUSE returns a driver that serves the FUSE directory dir: over the
// connection that keeper holds if that is still mounted there, else over a new
// one, which keeper gets. keeper may be nil: then mounts die with the process.
func NewFUSE(ctx context.Context, dir string, keeper Keeper, log *zap.Logger) (Driver, error) {
	if keeper != nil {
		server, err := resume(ctx, dir, keeper, log)
		if err != nil {
			log.Warn("former fuse connection not resumed: its readers get errors", zap.Error(err))
		}
		if server != nil {
			return &fuseDriver{server: server, resumed: true}, nil
		}
	}
	server, err := fuse.Mount(dir, fuse.Options{Log: log})
	if err != nil {
		return nil, err
	}
	if keeper != nil {
		if err := keeper.Keep(ctx, server.Descriptor()); err != nil {
			log.Warn("fuse connection not kept: readers will get errors when this process ends", zap.Error(err))
		}
	}
	return &fuseDriver{server: server}, nil
}

// resume takes over what keeper holds; nil if there is nothing to take over.
func resume(ctx context.Context, dir string, keeper Keeper, log *zap.Logger) (*fuse.Server, error) {
	conn, err := keeper.Take(ctx)
	if err != nil || conn == nil {
		return nil, err
	}
	mounted, err := mountinfo.Mounted(dir)
	if err != nil || !mounted {
		return nil, errors.Join(err, conn.Close())
	}
	return fuse.Resume(dir, conn, fuse.Options{Log: log})
}

func (d *fuseDriver) Name() string { return "fuse" }

func (d *fuseDriver) Attach(ctx context.Context, id string, volume lazyblock.Volume, target string) error {
	primary, extra, err := d.serve(id, volume)
	if err != nil {
		return reason.Wrap(reason.AttachFailed, err)
	}
	// The kernel reads the superblock inside mount(2). If ctx ends first, failing
	// those reads is the only way to make it return.
	stop := context.AfterFunc(ctx, func() { d.remove(id) })
	err = mountFiles(primary, extra, target, volume)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		d.remove(id)
		return reason.Wrap(attachReason(ctx), fmt.Errorf("attach volume %s: %w", id, err))
	}
	return nil
}

// serve makes the volume's devices appear as files and returns their paths.
func (d *fuseDriver) serve(id string, volume lazyblock.Volume) (primary string, extra []string, err error) {
	defer func() {
		if err != nil {
			d.remove(id)
		}
	}()
	if primary, err = d.server.Add(id, volume.Primary); err != nil {
		return "", nil, err
	}
	for i, device := range volume.Extra {
		path, err := d.server.Add(extraName(id, i), device)
		if err != nil {
			return "", nil, err
		}
		extra = append(extra, path)
	}
	return primary, extra, nil
}

func (d *fuseDriver) Adopt(id string, volume lazyblock.Volume, target string) (bool, error) {
	if !d.resumed {
		return false, nil
	}
	mounted, err := mountinfo.Mounted(target)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || !mounted {
		return false, err
	}
	_, _, err = d.serve(id, volume)
	return err == nil, err
}

func (d *fuseDriver) Adopted() { d.server.Resumed() }

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

// mountFiles mounts the volume whose devices are the files: directly, or through
// a loop device for each where the file system or the kernel needs block devices.
func mountFiles(primary string, extra []string, target string, volume lazyblock.Volume) error {
	if volume.FSType == "erofs" {
		err := mount(primary, extra, target, volume)
		if !errors.Is(err, unix.ENOTBLK) { // before Linux 6.12 only block devices can be mounted
			return err
		}
	}
	var loops []string
	var opened []*os.File
	defer func() { // autoclear: the mount holds the devices from now on, or nobody does
		for _, loop := range opened {
			_ = loop.Close()
		}
	}()
	for _, file := range append([]string{primary}, extra...) {
		loop, err := attachLoop(file)
		if err != nil {
			return err
		}
		opened, loops = append(opened, loop), append(loops, loop.Name())
	}
	return mount(loops[0], loops[1:], target, volume)
}
