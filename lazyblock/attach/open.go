package attach

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/lazyblock/attach/nbd"
)

// Options of Open.
type Options struct {
	Driver string // Auto, or the one driver to use
	Dir    string // where drivers keep their files, and what their devices are named after
	Keeper Keeper // of the FUSE connection; may be nil
	Log    *zap.Logger
}

// FUSEDir is where the driver fuse mounts its files.
func (o Options) FUSEDir() string { return filepath.Join(o.Dir, "fuse") }

// Open opens the driver that is asked for, or for Auto the first that works: fuse,
// then nbd. Never fanotify. It logs what it chose and why others were left.
func Open(ctx context.Context, opts Options) (Driver, error) {
	findings := Survey(opts.Dir)
	var errs []error
	for _, finding := range findings {
		if opts.Driver != finding.Driver && (opts.Driver != Auto || finding.Driver == Fanotify) {
			continue
		}
		driver, err := open(ctx, finding, opts)
		if err == nil {
			opts.Log.Info("attach driver chosen", zap.String("driver", driver.Name()), zap.Strings("limits", finding.Limits), zap.NamedError("instead", errors.Join(errs...)))
			return driver, nil
		}
		errs = append(errs, fmt.Errorf("attach driver %s: %w", finding.Driver, err))
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("attach driver %q is not known", opts.Driver)
	}
	return nil, errors.Join(errs...)
}

func open(ctx context.Context, finding Finding, opts Options) (Driver, error) {
	switch finding.Driver {
	case FUSE:
		if finding.Err != nil {
			return nil, finding.Err
		}
		return NewFUSE(ctx, opts.FUSEDir(), opts.Keeper, opts.Log)
	case NBD:
		if errors.Is(finding.Err, nbd.ErrUnsupported) {
			if err := nbd.Load(ctx); err != nil {
				return nil, errors.Join(finding.Err, err)
			}
		}
		return NewNBD(filepath.Join(opts.Dir, "nbd"), nbd.Options{Log: opts.Log})
	default:
		return nil, finding.Err
	}
}
