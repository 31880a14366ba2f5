// Package telemetry tells a node's monitoring what the daemon does: Prometheus
// metrics, health, and profiles.
//
// It owns the names, units and labels of the metrics, and the HTTP servers that
// hand them out. What happens is told to it by functions that main gives to the
// packages it happens in; what is, is asked for when somebody scrapes. So nothing
// below knows of Prometheus.
//
// It never has a reference, digest, host or anything else that the outside can
// invent for a label: every label has a handful of values, see [Definition].
//
// Goroutines: one of Serve's and those of net/http, which end before it returns.
package telemetry
