// Package compare pulls the same image in several ways: as containerd alone does
// it, and through Referee, both on one real node; with containerd's own tuning and
// through other projects' snapshotters on nodes of their own. The registry is at the
// other end of a shaped link, caches are cold, and one clock measures until the
// container answers. The demo and the benchmarks are made of it.
//
// It owns the nodes, the daemons, the registry and the links of a Bed, and removes
// them all. It measures and never judges: what a number should be is the
// caller's business.
//
// Goroutines: none of its own beyond those of node, regtest and link.
package compare
