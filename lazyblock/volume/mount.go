package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/attach"
)

// opened is what a mounted volume holds.
type opened struct {
	host    string // the registry that its blobs come from
	volume  lazyblock.Volume
	devices []*device // of volume, the primary one first, as the kernel reads them
	blobs   []Blob
	dones   []func() // of the companions
	files   []File   // of a settled volume, which has no blobs and no companions
}

func (m *Manager) mount(ctx context.Context, id string, spec Spec, creds registry.Credentials, report *Report) (_ *opened, err error) {
	if o, err := m.mountSettled(ctx, id, spec); o != nil || err != nil {
		return o, err
	}
	opener := m.formats[spec.Format]
	if opener == nil {
		return nil, reason.Errorf(reason.NotAttachable, "no reader for format %q", spec.Format)
	}
	o := &opened{host: registry.HostOf(spec.Repository)}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
			m.free(spec)
		}
	}()
	begin := time.Now()
	blobs, err := m.open(spec, creds)
	if err != nil {
		return nil, err
	}
	o.blobs = blobs
	for _, voucher := range spec.Vouchers { // after a restart: they hold the blobs as well
		if err := o.renew(voucher, registry.Credentials{}); err != nil {
			return nil, err
		}
	}
	if len(spec.Vouchers) > 0 {
		if err := o.renew(spec.Repository, creds); err != nil {
			return nil, err
		}
	}
	defer func() { report.Requests, report.Fetched = asked(blobs) }()
	if o.volume, err = opener(ctx, form(id, spec, blobs)); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", id, err)
	}
	report.Open = time.Since(begin)
	begin = time.Now()
	defer func() { report.Mount = time.Since(begin) }()
	var reading *reading
	o.devices, reading = serve(&o.volume, m.giveUpAfter, m.observer, m.log.With(zap.String("volume", id), zap.String("ref", spec.Reference)))
	adopted, err := m.driver.Adopt(id, o.volume, m.path(id))
	if err == nil && !adopted {
		reading.attaching(ctx)
		err = reading.explain(m.attach(ctx, id, o.volume))
	}
	if err != nil {
		return nil, err
	}
	reading.attached()
	for _, companion := range m.companions {
		o.dones = append(o.dones, companion.Opened(Mounted{ID: id, Spec: spec, Blobs: blobs, Root: m.path(id), Hints: o.volume.Hints, Paths: o.volume.Paths}))
	}
	return o, nil
}

// form gives the spec's blobs, which are open, to a format.
func form(id string, spec Spec, blobs []Blob) lazyblock.Form {
	all := make([]lazyblock.FormBlob, len(blobs))
	for i, desc := range spec.Blobs() {
		all[i] = lazyblock.FormBlob{RangeReader: blobs[i], Descriptor: desc}
	}
	return lazyblock.Form{ID: id, Layers: all[:len(spec.Layers)], Tables: all[len(spec.Layers):]}
}

// attach mounts and probes an opened volume, and takes everything back where
// that fails.
func (m *Manager) attach(ctx context.Context, id string, v lazyblock.Volume) error {
	target, err := m.target(id)
	if err != nil {
		return err
	}
	err = m.driver.Attach(ctx, id, v, target)
	if err == nil {
		err = attach.Probe(ctx, target)
	}
	if err != nil {
		err = errors.Join(err, m.detach(id))
	}
	return err
}

// detach unmounts a volume and removes its directory.
func (m *Manager) detach(id string) error {
	target := m.path(id)
	return errors.Join(m.driver.Detach(id, target), ignoreMissing(os.Remove(target)), ignoreMissing(os.Remove(filepath.Dir(target))))
}

func (m *Manager) open(spec Spec, creds registry.Credentials) ([]Blob, error) {
	wanted := spec.Blobs()
	blobs := make([]Blob, len(wanted))
	var group errgroup.Group
	for i, desc := range wanted {
		group.Go(func() error {
			blob, err := m.blobs.Open(spec.Repository, creds, desc)
			blobs[i] = blob
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(fmt.Errorf("open layers: %w", err), closeBlobs(blobs))
	}
	return blobs, nil
}

// renew gives the volume's blobs the newest way to the registry.
func (o *opened) renew(repository string, creds registry.Credentials) error {
	var errs []error
	for _, blob := range o.blobs {
		if r, ok := blob.(Renewer); ok {
			errs = append(errs, r.Renew(repository, creds))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) path(id string) string { return filepath.Join(m.mounts, id, "root") }

// target returns the empty directory to mount at, cleared of what a former
// process left there.
func (m *Manager) target(id string) (string, error) {
	target := m.path(id)
	if err := attach.Unmount(target); err != nil {
		return "", err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return "", fmt.Errorf("make mount point: %w", err)
	}
	return target, nil
}

func (o *opened) close() error {
	for _, done := range o.dones {
		done()
	}
	if o.files != nil { // they are the devices
		return closeFiles(o.files)
	}
	var err error
	if o.volume.Primary != nil {
		err = o.volume.Close()
	}
	return errors.Join(err, closeBlobs(o.blobs))
}

func asked(blobs []Blob) (requests, bytes int64) {
	for _, blob := range blobs {
		if meter, ok := blob.(Meter); ok {
			bytes += meter.Fetched()
		}
		if asker, ok := blob.(Asker); ok {
			requests += asker.Requests()
		}
	}
	return requests, bytes
}

func closeBlobs(blobs []Blob) error {
	var errs []error
	for _, blob := range blobs {
		if blob != nil {
			errs = append(errs, blob.Close())
		}
	}
	return errors.Join(errs...)
}
