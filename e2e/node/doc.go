// Package node runs a real Kubernetes node's image side on this machine for
// tests, demo and benchmarks: containerd of a chosen version with its own root,
// state, socket, registry hosts and CNI folder, a CRI client that plays the
// kubelet, and as subprocesses a referee daemon or a proxy snapshotter.
//
// It owns everything below a node's folder and every process that was started
// for it, and removes both, also what a crashed former run has left. It never
// touches containerd installed on the host, never configures the host's network
// (pods use the host's), and knows nothing of image formats.
//
// Goroutines: one per subprocess, which waits for its end; Stop waits for it.
package node
