package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/reason"
)

// imageVerifier is a program for containerd's plugin io.containerd.image-verifier.v1.bindir.
const imageVerifier = `#!/bin/sh
case "$2" in
*.denied.test/*) echo "not on the list"; exit 1;;
*.silent.test/*) exec sleep 600;;
esac
echo "on the list"
`

// verifierTimeout is how long it may take.
const verifierTimeout = time.Second

// newGuarded is a node with an image verifier, of which containerd is told if it
// asks one at all.
func newGuarded(t *testing.T, version string) *ground {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(imageVerifier), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	opts := node.Options{Containerd: version}
	if version == node.Containerd {
		opts.Config = fmt.Sprintf("[plugins.'io.containerd.image-verifier.v1.bindir']\n  bin_dir = %q\n  per_verifier_timeout = %q\n", dir, verifierTimeout)
	}
	return newGround(t, opts, fmt.Sprintf("[containerd]\nimage_verifier_dir = %q\nimage_verifier_timeout = %q\n", dir, verifierTimeout))
}

// judged is a trial with a form, its image being pulled from a host in domain.
func (g *ground) judged(t *testing.T, domain string) (*trial, conversion.Attached) {
	t.Helper()
	c := g.newTrial(t)
	_, port, _ := strings.Cut(c.registry.Host(), ":")
	host := "r" + port + "." + domain
	if err := g.PointHost(host, node.Endpoint{URL: c.registry.URL()}); err != nil {
		t.Fatal(err)
	}
	c.ref = host + "/tiny:tiny"
	form := c.convert(t, "tiny")[0]
	c.registry.ResetRequests()
	return c, form
}

// TestImageVerifier pulls where containerd asks a program about every image.
func TestImageVerifier(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, node.Containerd)
	t.Run("allows", func(t *testing.T) {
		c, _ := g.judged(t, "allowed.test")
		container := c.expectLazy(t)
		c.expectSums(t, container, sample...)
		c.release(t, container)
	})
	for domain, says := range map[string]string{"denied.test": "not on the list", "silent.test": "ask the image verifiers"} {
		t.Run(domain, func(t *testing.T) {
			c, form := g.judged(t, domain)
			_, want := c.CRI().Pull(t.Context(), c.ref, nil)
			c.registry.ResetRequests()
			started := time.Now()
			_, got := c.lazy.Pull(t.Context(), c.ref, nil)
			if want == nil || got == nil || status.Code(got) != status.Code(want) || timeless(got) != timeless(want) {
				t.Errorf("the pull fails with\n%v, through Referee with\n%v", want, got)
			}
			if took := time.Since(started); took > 10*verifierTimeout {
				t.Errorf("that took %s", took)
			}
			entry := c.explained(t, c.ref, started)
			if entry.Outcome != fallback.Ordinary || entry.Reason != reason.ImageDenied || !strings.Contains(entry.Sentence, says) || entry.Forward.Error == "" {
				t.Errorf("journal: %+v", entry)
			}
			c.expectUnread(t, form)
			c.expectNothingRemains(t)
			if image, err := c.lazy.ImageStatus(t.Context(), c.ref); err != nil || image != nil {
				t.Errorf("the node has %v, %v", image, err)
			}
		})
	}
}

// timeless is the text of an error without the time that a verifier took.
func timeless(err error) string {
	return regexp.MustCompile(`runtime [^)]*`).ReplaceAllString(err.Error(), "")
}

// TestImageVerifierUnknownToContainerd pulls where Referee alone asks the program:
// containerd 1.7 pulls for a kubelet without asking anybody.
func TestImageVerifierUnknownToContainerd(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, node.ContainerdOld)
	t.Run("allows", func(t *testing.T) {
		c, _ := g.judged(t, "allowed.test")
		c.release(t, c.expectLazy(t))
	})
	for domain, says := range map[string]string{"denied.test": "not on the list", "silent.test": "ask the image verifiers"} {
		t.Run(domain, func(t *testing.T) {
			c, form := g.judged(t, domain)
			c.expectOrdinary(t, outcome{reason: reason.ImageDenied, says: says, within: 5 * verifierTimeout})
			c.expectUnread(t, form)
		})
	}
}
