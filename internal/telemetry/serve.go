package telemetry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/internal/control"
)

const (
	maxScrapes   = 4 // at a time: what more Prometheus servers ask for at once is refused
	scrapeWithin = 10 * time.Second
	readyWithin  = 2 * time.Second
)

// Check is one thing that must be right for the daemon to be ready.
type Check struct {
	Name string
	Ask  func(ctx context.Context) error
}

// Handler answers /metrics, /healthz and /readyz.
//
// /healthz is 200 whenever the daemon can answer at all. It depends on nobody
// else: a restart mends neither a registry nor containerd, and costs readers a
// pause. /readyz is 200 when every check is right, else 503 with what is not.
func (m *Metrics) Handler(ready []Check, log *zap.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: scrapeLog{log}, ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeWithin,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answerReady(w, r, ready) })
	return mux
}

func answerReady(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), readyWithin)
	defer cancel()
	text, code := "", http.StatusOK
	for _, check := range checks {
		if err := check.Ask(ctx); err != nil {
			text += fmt.Sprintf("%s: %s\n", check.Name, err)
			code = http.StatusServiceUnavailable
			continue
		}
		text += check.Name + ": ok\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprint(w, text) // nobody to tell
}

// scrapeLog takes what goes wrong while metrics are gathered.
type scrapeLog struct{ log *zap.Logger }

// Println implements promhttp.Logger.
func (l scrapeLog) Println(v ...any) {
	l.log.Warn("metrics not gathered", zap.String("error", fmt.Sprint(v...)))
}

// Serve answers on a TCP address, "127.0.0.1:9465", until ctx ends.
func Serve(ctx context.Context, address string, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	return control.Serve(ctx, listener, handler)
}

// Profiles answers /debug/pprof. It is for a socket that only root can open: a
// profile takes a processor for as long as its caller likes.
func Profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
