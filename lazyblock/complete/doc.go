// Package complete fetches what nobody has read yet of mounted volumes, compares
// whole blobs with their digests, and keeps what turned out to be wrong away from
// the node.
//
// It owns <root>/volumes/<id>.completion, how far each volume is, and
// <root>/quarantine, one record a volume whose blob had another content than its
// digest says; such a record stays until somebody removes it. It decides when to
// fetch: not while readers wait for a registry, not where room is short, never
// faster than its rate. It never fails a read or a pull: whoever pulls asks Refuse,
// and how a form is replaced is the caller's.
//
// Goroutines: two a Companion, one that fetches and one that has quarantined forms
// replaced; Close stops and awaits them.
package complete
