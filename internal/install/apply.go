package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Services is a node's service manager. Implementations return when it has done
// what it was asked for.
type Services interface {
	Reload(ctx context.Context) error                      // its units
	Start(ctx context.Context, unit string) error          // no error if it runs
	Restart(ctx context.Context, unit string) error        // or start it
	RestartRunning(ctx context.Context, unit string) error // no error if it does not run, or does not exist
	Stop(ctx context.Context, unit string) error           // no error if it does not run
}

// Idle is the service manager of a node that does not run: an image, a chroot.
type Idle struct{}

var _ Services = Idle{}

// Reload does nothing.
func (Idle) Reload(context.Context) error { return nil }

// Start does nothing.
func (Idle) Start(context.Context, string) error { return nil }

// Restart does nothing.
func (Idle) Restart(context.Context, string) error { return nil }

// RestartRunning does nothing.
func (Idle) RestartRunning(context.Context, string) error { return nil }

// Stop does nothing.
func (Idle) Stop(context.Context, string) error { return nil }

// Apply makes the changes: the daemon first, and once it runs those that send
// anybody to it. Where one fails everything is put back and the error says why.
// The record is complete before the first change. Where there is nothing to
// change the daemon is started if it does not run.
func (p *Plan) Apply(ctx context.Context, services Services) (err error) {
	if len(p.Changes) == 0 {
		return errors.Join(services.Start(ctx, socketUnit), services.Start(ctx, serviceUnit))
	}
	var done []Change
	defer func() {
		if err == nil {
			return
		}
		if left := p.undo(context.WithoutCancel(ctx), done, services); left != nil {
			err = errors.Join(err, left)
		} else {
			err = fmt.Errorf("everything is as it was: %w", err)
		}
	}()
	for _, change := range p.Changes { // directories come first: the record's is among them
		if change.After.Kind == Directory {
			if err := p.tree.put(change.Path, change.After); err != nil {
				return err
			}
			done = append(done, change)
		}
	}
	if err := p.tree.writeRecord(p.record.with(p.Changes, p.opts.Version, time.Now()), p.Changes); err != nil {
		return err
	}
	if err := p.applyStage(daemon, &done); err != nil {
		return err
	}
	if err := p.startDaemon(ctx, services); err != nil {
		return err
	}
	if err := p.applyStage(traffic, &done); err != nil {
		return err
	}
	if p.touches(traffic) {
		return services.RestartRunning(ctx, kubeletUnit)
	}
	return nil
}

func (p *Plan) touches(s stage) bool {
	return slices.ContainsFunc(p.Changes, func(c Change) bool { return c.stage == s && c.After.Kind != Directory })
}

func (p *Plan) applyStage(s stage, done *[]Change) error {
	for _, change := range p.Changes {
		if change.stage != s || change.After.Kind == Directory {
			continue
		}
		if err := p.tree.put(change.Path, change.After); err != nil {
			return err
		}
		*done = append(*done, change)
	}
	return nil
}

// startDaemon has a new program, unit or configuration in force.
func (p *Plan) startDaemon(ctx context.Context, services Services) error {
	if !p.touches(daemon) {
		return nil
	}
	if err := services.Reload(ctx); err != nil {
		return err
	}
	if err := services.Start(ctx, socketUnit); err != nil {
		return err
	}
	if err := services.Restart(ctx, serviceUnit); err != nil {
		return fmt.Errorf("the daemon does not start (journalctl --unit %s tells why): %w", serviceUnit, err)
	}
	return nil
}

// undo puts back what was changed, the last first, and the record as it was.
func (p *Plan) undo(ctx context.Context, done []Change, services Services) error {
	var errs []error
	restart := false
	for _, change := range slices.Backward(done) {
		restart = restart || change.stage == traffic
		if change.After.Kind != Directory {
			errs = append(errs, p.tree.put(change.Path, change.Before))
		}
	}
	if restart {
		errs = append(errs, services.RestartRunning(ctx, kubeletUnit))
	}
	if p.record == nil {
		errs = append(errs, services.Stop(ctx, socketUnit), services.Stop(ctx, serviceUnit), p.tree.forget())
	} else {
		errs = append(errs, p.tree.writeRecord(p.record, nil), services.Reload(ctx), services.Restart(ctx, serviceUnit))
	}
	for _, change := range slices.Backward(done) {
		if change.After.Kind == Directory {
			errs = append(errs, p.tree.put(change.Path, State{}))
		}
	}
	if p.record == nil {
		errs = append(errs, services.Reload(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}
