package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.uber.org/zap"
	"google.golang.org/grpc/connectivity"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/telemetry"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/lazyblock/complete"
)

// serveTelemetry serves metrics, health and profiles until ctx ends. A daemon that
// cannot goes on without.
func (d *daemonParts) serveTelemetry(ctx context.Context, config *configs.Config, log *zap.Logger) {
	var serving sync.WaitGroup
	defer serving.Wait()
	if address := config.Metrics.Address; address != "" {
		serving.Go(func() {
			if err := telemetry.Serve(ctx, address, d.metrics.Handler(d.readiness(), log)); err != nil {
				log.Error("metrics and health are not served", zap.String("address", address), zap.Error(err))
			}
		})
	}
	path := control.DebugPath(config.State)
	listener, err := criimage.Listen(ctx, path)
	if err == nil {
		err = control.Serve(ctx, listener, telemetry.Profiles())
	}
	if err != nil {
		log.Error("profiles are not served", zap.String("socket", path), zap.Error(err))
	}
}

// openTracing sends spans where the environment says. A daemon that cannot goes on
// without.
func openTracing(ctx context.Context, log *zap.Logger) *tracing.Provider {
	provider, err := tracing.Open(ctx, os.Getenv, version)
	if err != nil {
		log.Error("pulls are not traced", zap.Error(err))
	}
	if provider == nil {
		return nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans not sent", zap.Error(err)) }))
	log.Info("tracing pulls")
	return provider
}

// readiness is what a daemon needs to be of use.
func (d *daemonParts) readiness() []telemetry.Check {
	return []telemetry.Check{
		{Name: "containerd", Ask: d.backendAnswers},
		{Name: "volumes", Ask: func(context.Context) error { return d.host.Restored() }},
	}
}

// backendAnswers asks containerd's CRI what the kubelet asks of an image service
// before it uses it.
func (d *daemonParts) backendAnswers(ctx context.Context) error {
	if state := d.backend.GetState(); state == connectivity.TransientFailure {
		return errors.New("no connection to containerd's socket")
	}
	if _, err := runtime.NewImageServiceClient(d.backend).ImageFsInfo(ctx, &runtime.ImageFsInfoRequest{}); err != nil {
		return errors.New("containerd's CRI does not answer")
	}
	return nil
}

// watch gives the metrics the daemon to look at.
func (d *daemonParts) watch(config *configs.Config, log *zap.Logger) {
	var told atomic.Bool
	d.metrics.Watch(func() telemetry.State {
		devices, err := d.devices(config)
		if err != nil && !told.Swap(true) {
			log.Warn("volumes not counted", zap.Error(err))
		}
		return telemetry.State{
			Cache: d.cache.Stats(), Completion: d.completion.Stats(), Traces: d.traces.Stats(), Host: d.host.Stats(),
			Devices: devices, Breakers: d.guard.Breakers(), Pulls: d.cri.PullsInFlight(),
			Draining: d.gate.check() != nil, Driver: d.driver.Name(),
		}
	})
}

func (d *daemonParts) devices(config *configs.Config) (telemetry.Devices, error) {
	var devices telemetry.Devices
	specs, err := d.volumes.List()
	for id := range specs {
		state, _ := complete.ReadState(config.Root, id) // unreadable is as good as none
		switch {
		case !d.volumes.Mounted(id):
			devices.Unmounted++
		case d.completion.Quarantined(id):
			devices.Quarantined++
		case state != nil && state.Whole():
			devices.Whole++
		default:
			devices.Partial++
		}
	}
	return devices, err
}
