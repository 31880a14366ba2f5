package main

import (
	"context"
	"net/http"

	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/criimage"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/logging"
)

// serveControl answers the command line until ctx ends. A daemon that cannot goes
// on without.
func (d *daemonParts) serveControl(ctx context.Context, config *configs.Config, level *logging.Level, log *zap.Logger) {
	path := control.Path(config.State)
	listener, err := criimage.Listen(ctx, path)
	if err == nil {
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/drain", d.handleDrain)
		mux.HandleFunc("DELETE /v1/drain", d.handleDrainCancel)
		mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { d.handleStatus(w, config) }) //nolint:contextcheck // nothing of it waits
		answerLevel := func(w http.ResponseWriter, r *http.Request) { handleLogLevel(w, r, level, log) }
		mux.HandleFunc("GET /v1/log-level", answerLevel)
		mux.HandleFunc("PUT /v1/log-level", answerLevel)
		err = control.Serve(ctx, listener, mux)
	}
	if err != nil {
		log.Error("drain and status are not served", zap.String("socket", path), zap.Error(err))
	}
}

func controlClient(config *configs.Config) control.Client {
	return control.Client{Path: control.Path(config.State)}
}
