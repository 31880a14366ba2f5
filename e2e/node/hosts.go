package node

import (
	"fmt"
	"os"
	"strings"
)

// Endpoint is one place where a registry host's images may be had.
type Endpoint struct {
	URL          string   // "http://127.0.0.1:5000"
	Capabilities []string // "pull", "resolve", …; both of these when empty
	CA           string   // path of a PEM file; system roots when empty
	SkipVerify   bool     // do not check the server's certificate
}

// PointHost makes containerd (and a referee that reads the same folder) look
// for images of registry host ("registry.test", "127.0.0.1:5000") at the
// endpoints, in order, and nowhere else. It takes effect with the next pull.
func (n *Node) PointHost(host string, endpoints ...Endpoint) error {
	if len(endpoints) == 0 {
		return fmt.Errorf("point host %s: no endpoint", host)
	}
	var b strings.Builder
	// Without a server line containerd would fall back to the host itself.
	fmt.Fprintf(&b, "server = %q\n", endpoints[len(endpoints)-1].URL)
	for _, e := range endpoints {
		e.write(&b)
	}
	dir := n.path("certs.d", host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("point host %s: %w", host, err)
	}
	if err := os.WriteFile(n.path("certs.d", host, "hosts.toml"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("point host %s: %w", host, err)
	}
	return nil
}

func (e Endpoint) write(b *strings.Builder) {
	capabilities := e.Capabilities
	if len(capabilities) == 0 {
		capabilities = []string{"pull", "resolve"}
	}
	fmt.Fprintf(b, "[host.%q]\n  capabilities = [\"%s\"]\n", e.URL, strings.Join(capabilities, `", "`))
	if e.CA != "" {
		fmt.Fprintf(b, "  ca = %q\n", e.CA)
	}
	if e.SkipVerify {
		b.WriteString("  skip_verify = true\n")
	}
}
