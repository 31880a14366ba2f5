package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/keeper"
	"github.com/referee-cri/referee/internal/logging"
	"github.com/referee-cri/referee/internal/pause"
	"github.com/referee-cri/referee/internal/telemetry"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/blob"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/lazyblock/volume"
	"github.com/referee-cri/referee/negotiate"
)

// snapshotter is the only one that can be grafted into; Grafter.Check verifies it.
const snapshotter = "overlayfs"

// shutdownTimeout is how long pulls in flight may go on after SIGTERM.
const shutdownTimeout = 10 * time.Second

// flushTimeout is how long the last spans may take to be sent.
const flushTimeout = 2 * time.Second

// How long the socket waits for containerd to tell about unconfirmed pulls.
const (
	recoverTimeout = 10 * time.Second
	recoverPause   = 250 * time.Millisecond
)

func serveCommand(load func() (*configs.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon: the CRI socket in front of containerd",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			log, level, err := logging.New(config.Log.Level, config.Log.Format)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			logging.Bridge(log)
			return serve(cmd.Context(), config, level, log)
		},
	}
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, config *configs.Config, level *logging.Level, log *zap.Logger) error {
	d, err := newDaemon(ctx, config, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := d.close(ctx); err != nil {
			log.Error("daemon not closed cleanly", zap.Error(err))
		}
	}()
	listener, err := listen(ctx, config.CRI.Socket)
	if err != nil {
		return err
	}
	// Bring grafts back first: a container created meanwhile would find them
	// dangling. containerd may not be there yet; the loop goes on trying.
	if err := d.host.Restore(ctx); err != nil {
		log.Warn("node not restored yet", zap.Error(err))
	}
	if err := d.recoverPulls(ctx); err != nil {
		log.Error("images may be there that a former process did not live to confirm", zap.Error(err))
	}
	var loops sync.WaitGroup
	loopCtx, stopLoops := context.WithCancel(ctx)
	defer stopLoops()
	loops.Go(func() { d.host.Run(loopCtx) })                         // ends with loopCtx; waited for below
	loops.Go(func() { d.serveControl(loopCtx, config, level, log) }) // as well
	loops.Go(func() { toggleLogLevel(loopCtx, level, log) })
	loops.Go(func() { d.serveTelemetry(loopCtx, config, log) })
	served := make(chan error, 1)
	go func() { served <- d.cri.Serve(listener) }() // ends with Shutdown; waited for below
	log.Info("serving", zap.String("socket", config.CRI.Socket), zap.String("backend", config.CRI.Backend), zap.String("version", version))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)

	select {
	case <-ctx.Done():
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		err = d.cri.Shutdown(shutdown)
		cancel()
		err = errors.Join(err, <-served)
	case err = <-served:
	}
	stopLoops()
	loops.Wait()
	return err
}

// listen takes the socket that systemd handed over, or makes one.
func listen(ctx context.Context, path string) (net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over systemd's socket: %w", err)
	}
	if len(listeners) > 0 && listeners[0] != nil {
		return listeners[0], nil
	}
	return criimage.Listen(ctx, path)
}

// daemonParts is everything that runs in one daemon.
type daemonParts struct {
	tracing    *tracing.Provider // nil: off
	metrics    *telemetry.Metrics
	registry   *registries
	containerd *grpc.ClientConn
	backend    *grpc.ClientConn // containerd's CRI
	keeper     keeper.Client
	fuseDir    string
	driver     *attach.Chosen
	cache      *cache.Store
	traces     *trace.Companion
	completion *complete.Companion
	ready      chan struct{} // closed when host is there
	volumes    *volume.Manager
	host       *host.Host
	negotiator *negotiate.Negotiator
	gate       gate
	guard      *fallback.Guard
	cri        *criimage.Server
}

func newDaemon(ctx context.Context, config *configs.Config, log *zap.Logger) (d *daemonParts, err error) {
	d = &daemonParts{ready: make(chan struct{}), metrics: telemetry.New(version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close(ctx))
		}
	}()
	for _, dir := range []string{config.Root, config.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return d, fmt.Errorf("make directory: %w", err)
		}
	}
	d.tracing = openTracing(ctx, log)
	d.registry = openRegistries(config, d.metrics.Asked, log)
	if d.containerd, err = criimage.Dial(config.ContainerdAddress()); err != nil {
		return d, err
	}
	if d.backend, err = criimage.Dial(config.CRI.Backend); err != nil {
		return d, err
	}
	if d.cache, err = cache.Open(config.CacheDir(), cacheOptions(config, log)); err != nil {
		return d, err
	}
	d.keeper = keeperOf(config)
	attachment := attach.Options{Driver: config.Attach.Driver, Dir: config.State, Keeper: d.keeper, Log: log}
	d.fuseDir = attachment.FUSEDir()
	d.driver = attach.Choose(ctx, attachment)
	if d.traces, err = d.openTraces(config, log); err != nil {
		return d, err
	}
	if d.completion, err = openCompletion(config, d, log); err != nil { //nolint:contextcheck // Close ends what it begins
		return d, err
	}
	d.volumes, err = volume.NewManager(volume.Options{
		Root: config.Root, State: config.State, Driver: d.driver, Formats: formats(scratchIn(d.cache)), GiveUpAfter: config.Reads.GiveUpAfter.Duration, Log: log,
		Blobs:      blobs{registry: d.registry.Client, cache: d.cache, hosts: blob.NewHosts(0), giveUpAfter: config.Reads.GiveUpAfter.Duration, observe: d.metrics.Fetch, hedged: d.metrics.Hedge, log: log},
		Companions: []volume.Companion{d.traces, d.completion}, Files: deviceFiles{d.cache}, Observer: d.metrics,
	})
	if err != nil {
		return d, err
	}
	grafter := graft.New(graft.Options{
		Conn: d.containerd, Namespace: config.Containerd.Namespace, Snapshotter: snapshotter,
		VolumesDir: d.volumes.Dir(), Log: log,
	})
	d.host = host.New(host.Options{Conn: d.containerd, Namespace: config.Containerd.Namespace, Grafter: grafter, Volumes: d.volumes, Registry: d.registry.Client, Log: log})
	close(d.ready)
	if d.guard, err = newGuard(config, d, grafter, log); err != nil { //nolint:contextcheck // a driver that is found late serves everybody
		return d, err
	}
	if d.cri, err = criimage.New(criimage.Options{Backend: config.CRI.Backend, Preparer: d.guard, Observe: d.metrics.Call, Tracer: d.tracing.Tracer(), Log: log}); err != nil {
		return d, err
	}
	d.watch(config, log)
	return d, nil
}

// recoverPulls has the guard look at pulls that a former process left before
// anybody can ask for their images. containerd may still be starting.
func (d *daemonParts) recoverPulls(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	for {
		err := d.guard.Recover(ctx)
		if err == nil || pause.For(ctx, recoverPause) != nil {
			return err
		}
	}
}

// close releases what newDaemon made, in the opposite order, also when ctx has
// ended. Mounts stay.
func (d *daemonParts) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	if d.guard != nil {
		closing, cancel := context.WithTimeout(ctx, shutdownTimeout)
		errs = append(errs, d.guard.Close(closing))
		cancel()
	}
	if d.negotiator != nil {
		d.negotiator.Close()
	}
	if d.completion != nil { // it may be replacing a form
		d.completion.Close()
	}
	idle := d.volumes == nil || d.volumes.Empty()
	if d.driver != nil {
		errs = append(errs, d.driver.Close())
	}
	if d.volumes != nil {
		errs = append(errs, d.volumes.Close())
	}
	if d.driver != nil && idle { // nobody reads: leave nothing behind
		errs = append(errs, attach.Unmount(d.fuseDir), d.keeper.Quit(ctx))
	}
	if d.cache != nil {
		errs = append(errs, d.cache.Close())
	}
	for _, conn := range []*grpc.ClientConn{d.containerd, d.backend} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	if d.registry != nil {
		errs = append(errs, d.registry.Close())
	}
	sending, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	errs = append(errs, d.tracing.Close(sending))
	return errors.Join(errs...)
}

var _ criimage.Preparer = (*fallback.Guard)(nil)
