package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

// nbdDriver serves each device as one network block device of this host.
type nbdDriver struct {
	prefix string // of the identifiers of this driver's devices
	opts   nbd.Options

	mu      sync.Mutex
	exports map[string][]*nbd.Export // by volume: primary, then extra devices
	former  map[string]nbd.Device    // by identifier: what a former process left and nobody adopted yet
}

var _ Driver = (*nbdDriver)(nil)

// NewNBD returns a driver whose devices bear identifiers that begin with dir.
// It finds those that a former process with the same dir left: their readers
// wait for Adopt, or for Adopted.
func NewNBD(dir string, opts nbd.Options) (Driver, error) {
	if err := nbdSupported(); err != nil {
		return nil, err
	}
	d := &nbdDriver{
		prefix: dir + "/", opts: opts,
		exports: make(map[string][]*nbd.Export), former: make(map[string]nbd.Device),
	}
	devices, err := nbd.Find(d.prefix)
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		d.former[device.Backend] = device
	}
	return d, nil
}

func (d *nbdDriver) Name() string { return "nbd" }

func (d *nbdDriver) Attach(ctx context.Context, id string, volume lazyblock.Volume, target string) error {
	exports, err := d.connect(id, volume)
	if err != nil {
		return reason.Wrap(reason.AttachFailed, err)
	}
	// The kernel reads the superblock inside mount(2). If ctx ends first, failing
	// those reads is the only way to make it return.
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { ended <- d.end(id) })
	err = mount(exports[0].Path(), paths(exports[1:]), target, volume)
	if !stop() {
		err = errors.Join(ctx.Err(), err, <-ended)
	}
	if err != nil {
		err = errors.Join(err, d.end(id))
		return reason.Wrap(attachReason(ctx), fmt.Errorf("attach volume %s: %w", id, err))
	}
	return nil
}

// connect makes a device for each of the volume's, the primary one first.
func (d *nbdDriver) connect(id string, volume lazyblock.Volume) ([]*nbd.Export, error) {
	if err := d.dropFormer(d.prefix + id); err != nil {
		return nil, err
	}
	return d.keep(id, func(slot int, device lazyblock.Device) (*nbd.Export, error) {
		return nbd.Connect(device, d.backend(id, slot), d.opts)
	}, volume)
}

// keep makes an export of every device and remembers them, all or none.
func (d *nbdDriver) keep(id string, export func(slot int, device lazyblock.Device) (*nbd.Export, error), volume lazyblock.Volume) ([]*nbd.Export, error) {
	var exports []*nbd.Export
	for slot, device := range append([]lazyblock.Device{volume.Primary}, volume.Extra...) {
		e, err := export(slot, device)
		if err != nil {
			return nil, errors.Join(err, closeExports(exports))
		}
		exports = append(exports, e)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.exports[id] = exports
	return exports, nil
}

func (d *nbdDriver) Adopt(id string, volume lazyblock.Volume, target string) (bool, error) {
	primary, found := d.leftBehind(d.backend(id, 0))
	if !found {
		return false, nil
	}
	mounted, err := isMountedFrom(target, primary.Path())
	if err != nil || !mounted {
		return false, err
	}
	for slot := range volume.Extra {
		if _, found := d.leftBehind(d.backend(id, slot+1)); !found {
			return false, nil
		}
	}
	_, err = d.keep(id, func(slot int, device lazyblock.Device) (*nbd.Export, error) {
		former, _ := d.leftBehind(d.backend(id, slot))
		return nbd.Resume(device, former, d.opts)
	}, volume)
	if err != nil {
		return false, fmt.Errorf("adopt volume %s: %w", id, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for slot := range len(volume.Extra) + 1 {
		delete(d.former, d.backend(id, slot))
	}
	return true, nil
}

func (d *nbdDriver) leftBehind(backend string) (nbd.Device, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	device, found := d.former[backend]
	return device, found
}

func (d *nbdDriver) Adopted() {
	// What cannot be ended stays as it is: its readers get their error later.
	_ = d.dropFormer(d.prefix)
}

// dropFormer ends what a former process left under identifiers with that prefix.
func (d *nbdDriver) dropFormer(prefix string) error {
	d.mu.Lock()
	var dropped []nbd.Device
	for backend, device := range d.former {
		if backend == prefix || strings.HasPrefix(backend, prefix+".") || prefix == d.prefix {
			dropped = append(dropped, device)
			delete(d.former, backend)
		}
	}
	d.mu.Unlock()
	var errs []error
	for _, device := range dropped {
		errs = append(errs, device.Disconnect())
	}
	return errors.Join(errs...)
}

func (d *nbdDriver) Detach(id string, target string) error {
	return errors.Join(Unmount(target), d.end(id), d.dropFormer(d.prefix+id))
}

func (d *nbdDriver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, exports := range d.exports {
		for _, export := range exports {
			export.Abandon()
		}
	}
	clear(d.exports)
	return nil
}

// end stops serving the volume and ends its devices.
func (d *nbdDriver) end(id string) error {
	d.mu.Lock()
	exports := d.exports[id]
	delete(d.exports, id)
	d.mu.Unlock()
	return closeExports(exports)
}

// backend is the identifier of a volume's device: slot 0 is the primary one.
func (d *nbdDriver) backend(id string, slot int) string {
	if slot == 0 {
		return d.prefix + id
	}
	return d.prefix + extraName(id, slot-1)
}

func paths(exports []*nbd.Export) []string {
	var paths []string
	for _, export := range exports {
		paths = append(paths, export.Path())
	}
	return paths
}

func closeExports(exports []*nbd.Export) error {
	var errs []error
	for _, export := range exports {
		errs = append(errs, export.Close())
	}
	return errors.Join(errs...)
}

// isMountedFrom tells whether the topmost mount at target is of source.
func isMountedFrom(target, source string) (bool, error) {
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if errors.Is(err, os.ErrNotExist) || len(infos) == 0 {
		return false, err
	}
	return infos[len(infos)-1].Source == source, err
}
