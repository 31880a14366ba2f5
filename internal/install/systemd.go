package install

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Systemd is systemd as it is reached over D-Bus, also from a container that has
// the node's /run.
type Systemd struct{ conn *dbus.Conn }

var _ Services = (*Systemd)(nil)

// buses are where systemd answers root, below the node's root: the system's bus,
// and the socket that systemctl uses where there is none.
func buses() []string {
	return []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}
}

// Running tells whether systemd runs the node whose file system is at root
// (sd_booted(3)).
func Running(root string) bool {
	t, err := absolute(root)
	if err != nil {
		return false
	}
	at, err := t.at("/run/systemd/system")
	if err != nil {
		return false
	}
	info, err := os.Stat(at)
	return err == nil && info.IsDir()
}

// OpenSystemd connects to the systemd of the node at root.
func OpenSystemd(ctx context.Context, root string) (*Systemd, error) {
	t, err := absolute(root)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range buses() {
		socket, err := t.resolve(path)
		if err == nil {
			socket, err = t.at(socket)
		}
		if err != nil {
			return nil, err
		}
		conn, err := dbus.NewConnection(func() (*godbus.Conn, error) { return dial(ctx, socket, path == buses()[0]) })
		if err == nil {
			return &Systemd{conn}, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("reach systemd: %w", errors.Join(errs...))
}

// dial connects and says who we are. Only a bus greets.
func dial(ctx context.Context, socket string, bus bool) (*godbus.Conn, error) {
	conn, err := godbus.Dial("unix:path="+socket, godbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	err = conn.Auth([]godbus.Auth{godbus.AuthExternal(fmt.Sprint(os.Getuid()))})
	if err == nil && bus {
		err = conn.Hello()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Close closes the connection.
func (s *Systemd) Close() { s.conn.Close() }

// Reload reads the units again.
func (s *Systemd) Reload(ctx context.Context) error {
	if err := s.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload units: %w", err)
	}
	return nil
}

// job is one of systemd's methods that begin a job for a unit.
type job func(ctx context.Context, name, mode string, ended chan<- string) (int, error)

func (s *Systemd) run(ctx context.Context, what string, start job, unit string) error {
	ended := make(chan string, 1)
	if _, err := start(ctx, unit, "replace", ended); err != nil {
		return fmt.Errorf("%s %s: %w", what, unit, err)
	}
	select {
	case result := <-ended:
		if result != "done" && result != "skipped" {
			return fmt.Errorf("%s %s: the job %s", what, unit, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", what, unit, ctx.Err())
	}
}

// Start starts a unit.
func (s *Systemd) Start(ctx context.Context, unit string) error {
	return s.run(ctx, "start", s.conn.StartUnitContext, unit)
}

// Restart restarts or starts a unit.
func (s *Systemd) Restart(ctx context.Context, unit string) error {
	return s.run(ctx, "restart", s.conn.RestartUnitContext, unit)
}

// noSuchUnit is the error about a unit that has no file.
const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

func absent(err error) bool {
	var failure godbus.Error
	return errors.As(err, &failure) && failure.Name == noSuchUnit
}

// RestartRunning restarts a unit that runs.
func (s *Systemd) RestartRunning(ctx context.Context, unit string) error {
	if err := s.run(ctx, "restart", s.conn.TryRestartUnitContext, unit); err != nil && !absent(err) {
		return err
	}
	return nil
}

// Stop stops a unit.
func (s *Systemd) Stop(ctx context.Context, unit string) error {
	if err := s.run(ctx, "stop", s.conn.StopUnitContext, unit); err != nil && !absent(err) {
		return err
	}
	return nil
}
