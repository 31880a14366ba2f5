// Package install puts Referee on a node and takes it away again.
//
// It owns the list of what that takes ([Plan]: every path with its state before
// and after), the record of what was done, in /var/lib/referee/install.json with
// copies of what it replaced beside it, and the way back from both. Files of
// others (the kubelet's, crictl's) are changed by one setting, in place: comments,
// order and everything else stay as they are, byte for byte.
//
// It never talks to containerd, to the kubelet or to the daemon, changes no path
// that its plan does not name, and asks systemd for nothing but to start, stop and
// reload units. It starts no goroutine.
package install
