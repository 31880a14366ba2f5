// Package link puts a network link of a given round-trip time and rate between
// this machine and a registry on it, for the demo and the benchmarks.
//
// The far end is a network namespace without a name; the two ends are TUN
// devices, and every packet that enters one leaves the other when a real link
// would deliver it. TCP itself therefore behaves as over such a link: handshakes
// cost round trips, slow start is slow, a full queue drops. The kernel's netem
// would do the same where it is present. Where TUN devices cannot be made, a
// relay of TCP connections delays their bytes; that models neither handshakes
// nor slow start, and Kind says so.
//
// It owns the devices, the namespace and the listeners in it, all of which
// vanish with the process. It never changes routes, rules or sysctls of the
// host's own namespace except for the address of its own device.
//
// Goroutines: two for each direction (one takes packets, one delivers them), one
// for each forwarded port, three for each connection through it. Close ends
// them and waits for them.
package link
