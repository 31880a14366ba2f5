// Package compare pulls the same image both ways on one real node: as containerd
// alone does it, and through Referee. The registry is at the other end of a
// shaped link, caches are cold, and one clock measures until the container
// answers. The demo and the benchmarks are made of it.
//
// It owns the node, the daemon, the registry and the links of a Bed, and removes
// them all. It measures and never judges: what a number should be is the
// caller's business.
//
// Goroutines: none of its own beyond those of node, regtest and link.
package compare
