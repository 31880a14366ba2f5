package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"

	"github.com/referee-cri/referee/internal/reason"
)

// recheckHosts is how often certs.d is looked at again for a host in use.
const recheckHosts = time.Second

// hostSet is containerd's view of one registry name: where to ask, in order.
// It is immutable but for the health of its hosts, so that connections live as
// long as the files that describe them do not change.
type hostSet struct {
	name        string // as in image references: "docker.io"
	hosts       []*host
	fingerprint string
	checked     time.Time   // under Client.mu
	stale       atomic.Bool // a certificate was refused: read everything again
}

// host is one place to ask: a mirror or the registry itself.
type host struct {
	docker.RegistryHost
	downTime  time.Duration
	downUntil atomic.Int64 // Unix nanoseconds
}

func (h *host) down(now time.Time) bool { return now.UnixNano() < h.downUntil.Load() }

// markDown puts h behind the others for a while, and reports whether that is news.
func (h *host) markDown() bool {
	now := time.Now()
	news := !h.down(now)
	h.downUntil.Store(now.Add(h.downTime).UnixNano())
	return news
}

// mirrorOf reports whether h must be told which registry is meant, by the same
// rule as containerd's.
func (h *host) mirrorOf(registry string) bool {
	return h.Host != registry && (registry != "docker.io" || h.Host != "registry-1.docker.io")
}

func (s *hostSet) closeIdle() {
	for _, h := range s.hosts {
		h.Client.CloseIdleConnections()
	}
}

// order returns the hosts that have caps, those that were unreachable a moment
// ago last.
func (s *hostSet) order(caps docker.HostCapabilities, now time.Time) []*host {
	var up, down []*host
	for _, h := range s.hosts {
		switch {
		case !h.Capabilities.Has(caps):
		case h.down(now):
			down = append(down, h)
		default:
			up = append(up, h)
		}
	}
	return append(up, down...)
}

// hostSet returns the hosts for a registry name, read again when the files that
// say so have changed.
func (c *Client) hostSet(ctx context.Context, name string) (*hostSet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.hostSets[name]
	now := time.Now()
	if old != nil && !old.stale.Load() && now.Sub(old.checked) < recheckHosts {
		return old, nil
	}
	fingerprint, err := c.fingerprint(name)
	if err != nil {
		return nil, reason.Errorf(reason.RegistryUnreachable, "read hosts of %s: %w", name, err)
	}
	if old != nil && !old.stale.Load() && old.fingerprint == fingerprint {
		old.checked = now
		return old, nil
	}
	hosts, err := c.configureHosts(ctx, name)
	if err != nil {
		return nil, reason.Errorf(reason.RegistryUnreachable, "configure hosts of %s: %w", name, err)
	}
	if old != nil {
		old.closeIdle()
	} else if len(c.hostSets) >= maxHostSets {
		c.dropHostSet()
	}
	set := &hostSet{name: name, hosts: hosts, fingerprint: fingerprint, checked: now}
	c.hostSets[name] = set
	return set, nil
}

// dropHostSet forgets the set that was looked at longest ago.
func (c *Client) dropHostSet() {
	var oldest *hostSet
	for _, set := range c.hostSets {
		if oldest == nil || set.checked.Before(oldest.checked) {
			oldest = set
		}
	}
	oldest.closeIdle()
	delete(c.hostSets, oldest.name)
}

// configureHosts lets containerd read certs.d. Each call makes new transports.
func (c *Client) configureHosts(ctx context.Context, name string) ([]*host, error) {
	tuned := false
	configure := config.ConfigureHosts(withLogger(ctx, c.opts.Log), config.HostOptions{
		HostDir: c.hostDir,
		UpdateClient: func(client *http.Client) error {
			// The first call is for the transport that all hosts' are cloned
			// from; the later ones must not undo a host's own dial_timeout.
			if tuned {
				return nil
			}
			tuned = true
			transport, ok := client.Transport.(*http.Transport)
			if !ok {
				return fmt.Errorf("tune transport: it is a %T", client.Transport)
			}
			c.tune(transport)
			return nil
		},
	})
	configured, err := configure(name)
	if err != nil {
		return nil, err
	}
	hosts := make([]*host, len(configured))
	for i := range configured {
		hosts[i] = &host{RegistryHost: configured[i], downTime: c.opts.DownTime}
	}
	return hosts, nil
}

// tune prepares a transport for many parallel ranges. Like containerd's it
// speaks HTTP/1.1: parallel ranges want parallel connections.
func (c *Client) tune(t *http.Transport) {
	t.DialContext = (&net.Dialer{
		Timeout:       c.opts.DialTimeout,
		KeepAlive:     30 * time.Second,
		FallbackDelay: 300 * time.Millisecond,
	}).DialContext
	t.MaxIdleConns = 0 // limited per host only
	t.MaxIdleConnsPerHost = c.opts.MaxIdlePerHost
	t.IdleConnTimeout = c.opts.IdleTimeout
	t.TLSHandshakeTimeout = c.opts.TLSHandshakeTimeout
	t.ResponseHeaderTimeout = c.opts.ResponseHeaderTimeout
	t.ReadBufferSize = 64 << 10
}

// hostDir finds the directory for a registry name; "" if there is none.
func (c *Client) hostDir(name string) (string, error) {
	for _, root := range c.opts.HostDirs {
		dir, err := config.HostDirFromRoot(root)(name)
		if err == nil && dir != "" {
			return dir, nil
		}
		// containerd's ErrNotFound says "no such directory"; an unreadable
		// root is an error there, as it is here.
		if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
			return "", err
		}
	}
	return "", nil
}

// fingerprint changes when a file in the directory for a registry name does.
// Certificates elsewhere are noticed by hostSet.stale.
func (c *Client) fingerprint(name string) (string, error) {
	dir, err := c.hostDir(name)
	if err != nil || dir == "" {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(dir)
	slices.SortFunc(entries, func(x, y os.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	for _, entry := range entries {
		// Stat, not the entry's Info: mounted ConfigMaps are symbolic links.
		info, err := os.Stat(dir + "/" + entry.Name())
		if err != nil {
			continue // it went, or dangles: the next look will see
		}
		fmt.Fprintf(&b, "\n%s %d %d", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}
