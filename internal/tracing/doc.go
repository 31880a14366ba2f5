// Package tracing makes spans of pulls, so that kubelet, Referee and containerd
// show in one trace, and sends them where OpenTelemetry's environment variables say.
//
// It owns the connection to the collector and the way in which a span is begun and
// ended. Tracing is off unless the environment asks for it, and then costs a look
// into the context. A span's parent is in the context and nowhere else: [Start] makes
// none where nobody began a trace.
//
// It never puts a URL, header or credential into a span. Texts of errors are those
// of the log and the journal.
//
// Goroutines: those of the SDK's batches, which Close ends.
package tracing
