package attach

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

// How long a look for a driver may take, and how long after one that found none
// the next may come. Modules are loaded, and devices appear, while a node starts.
const (
	lookTimeout = 5 * time.Second
	lookAgain   = 10 * time.Second
)

// Chosen is the driver of this node: what Open finds or, for as long as it finds
// nothing, none. Then it attaches nothing and says why, and a volume that is to be
// attached makes it look again.
type Chosen struct {
	open func(context.Context) (Driver, error)

	mu     sync.Mutex
	driver Driver
	err    error // why there is none
	looked time.Time
	closed bool
}

var _ Driver = (*Chosen)(nil)

// Choose returns the driver of this node and looks for it once.
func Choose(ctx context.Context, opts Options) *Chosen {
	c := &Chosen{open: func(ctx context.Context) (Driver, error) { return Open(ctx, opts) }}
	if _, err := c.look(ctx); err != nil {
		opts.Log.Error("no attach driver works on this node: pulls are ordinary", zap.Error(err))
	}
	return c
}

// Ready returns nil if volumes can be attached, else why not. It looks again, but
// not often, and takes at most lookTimeout then.
func (c *Chosen) Ready() error {
	_, err := c.look(context.Background())
	return err
}

// look returns the driver, with reason.NotAttachable if there is none.
func (c *Chosen) look(ctx context.Context) (Driver, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("attach driver is closed")
	}
	if c.driver != nil {
		return c.driver, nil
	}
	if c.looked.IsZero() || time.Since(c.looked) >= lookAgain {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		c.driver, c.err = c.open(ctx)
		c.looked = time.Now()
	}
	return c.driver, reason.Wrap(reason.NotAttachable, c.err)
}

// found returns the driver if there is one. It does not look.
func (c *Chosen) found() Driver {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.driver
}

// Name is that of the driver, or "none".
func (c *Chosen) Name() string {
	if driver := c.found(); driver != nil {
		return driver.Name()
	}
	return "none"
}

// Attach attaches the volume, with reason.NotAttachable where no driver works.
func (c *Chosen) Attach(ctx context.Context, id string, volume lazyblock.Volume, target string) error {
	driver, err := c.look(ctx)
	if err != nil {
		return err
	}
	return driver.Attach(ctx, id, volume, target)
}

// Adopt looks for a driver as well: one that is found late may still resume what a
// former process served.
func (c *Chosen) Adopt(id string, volume lazyblock.Volume, target string) (bool, error) {
	driver, err := c.look(context.Background()) // bounded by lookTimeout
	if err != nil {
		return false, err
	}
	return driver.Adopt(id, volume, target)
}

// Adopted tells the driver, if there is one.
func (c *Chosen) Adopted() {
	if driver := c.found(); driver != nil {
		driver.Adopted()
	}
}

// Detach unmounts what is mounted at target also where no driver works.
func (c *Chosen) Detach(id, target string) error {
	if driver := c.found(); driver != nil {
		return driver.Detach(id, target)
	}
	return Unmount(target)
}

// Close closes the driver. No other is looked for.
func (c *Chosen) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.driver == nil {
		return nil
	}
	driver := c.driver
	c.driver = nil
	return driver.Close()
}
