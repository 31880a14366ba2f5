// Package nbd serves devices as read-only network block devices of this very
// host, for kernels that cannot mount file systems from files.
//
// It owns the kernel's nbd devices that bear its identifier, the socket pairs
// between them and this process, and the server at their other end. It mounts
// nothing and never opens a device node itself.
//
// A device's identifier is kept by the kernel (/sys/block/nbdN/backend), so a
// later process finds what a former one left without any file of ours, and
// serves it over new sockets. Until then readers wait, at most
// Options.DeadAfter. A request that the former process took and never answered
// is sent again once it is Options.ResendAfter old.
//
// Goroutines: each Export has one for every connection, and one for every read
// under way, bounded. Close and Abandon wait for all of them.
package nbd
