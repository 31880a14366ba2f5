package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/internal/control"
)

// mounts looks whether containerd sees what the daemon mounts: both in one mount
// namespace, or the mount that holds the state directory shared.
func (n *Node) mounts(ctx context.Context) []Finding {
	theirs, err := namespaceOf(ctx, n.Config.ContainerdAddress())
	if err != nil {
		return []Finding{degraded("containerd's mount namespace: "+err.Error(), "whether it sees what Referee mounts is unknown", "start containerd, and run this as root")}
	}
	ours, err := namespaceOf(ctx, control.Path(n.Config.State))
	who := "the daemon"
	if err != nil { // it does not run: it would probably run where this does
		who = "this shell"
		if ours, err = os.Readlink("/proc/self/ns/mnt"); err != nil {
			return []Finding{degraded(err.Error(), "", "mount /proc")}
		}
	}
	if ours == theirs {
		return []Finding{good("containerd and %s share a mount namespace", who)}
	}
	found := fmt.Sprintf("%s and containerd are in different mount namespaces", who)
	if shared(n.Config.State) {
		return []Finding{degraded(found+"; mounts below "+n.Config.State+" are shared", "it depends on how containerd's namespace was made whether it sees them", "run the daemon with the shipped unit")}
	}
	return []Finding{bad(found, "containerd does not see volumes: containers of lazy images cannot be created", "run the daemon with the shipped unit, without PrivateMounts= and the like")}
}

// namespaceOf names the mount namespace of the process that listens at a socket.
func namespaceOf(ctx context.Context, socket string) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn() //nolint:errcheck,forcetypeassert // of the network "unix"
	if err != nil {
		return "", err
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = peerErr
	}
	if err != nil {
		return "", fmt.Errorf("who listens at %s: %w", socket, err)
	}
	return os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", peer.Pid))
}

// shared tells whether mounts made below path reach other namespaces.
func shared(path string) bool {
	path = existing(path)
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return false
	}
	var nearest *mountinfo.Info
	for _, m := range mounts {
		if nearest == nil || len(m.Mountpoint) >= len(nearest.Mountpoint) {
			nearest = m
		}
	}
	return nearest != nil && strings.Contains(nearest.Optional, "shared:")
}
