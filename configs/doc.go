// Package configs is what an operator copies to a node, and the Go code that
// reads the one file of it that is Referee's own.
//
// The folder holds config.toml (every key, its default, what it means), the
// systemd units, the kubelet and crictl snippets and bootstrap.sh, which puts
// them all in place and takes them away again. The package embeds them
// ([Files]) so that the binary can print or install what it was built with.
//
// It knows no other package of Referee: keys are plain values, and whoever
// uses one gives it its meaning. It starts no goroutine and touches nothing
// but the file it is told to load.
package configs
