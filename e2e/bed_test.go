package e2e_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/e2e/tools"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// bed is a node with a registry and the daemon in front of containerd.
type bed struct {
	*node.Node
	command  // with the daemon's configuration
	registry *regtest.Registry
	referee  *node.Referee
	lazy     *node.Client // a kubelet whose image endpoint is Referee
	text     string       // of the daemon's configuration
}

// anyImage is the policy for what no other block matches.
const anyImage = `[[policy]]
min_size = "0B"
legacy_oras = "on"
`

// newBed starts everything. settings is TOML added to the daemon's configuration,
// access what belongs into its [registry].
func newBed(t *testing.T, opts node.Options, settings string, access ...string) *bed {
	t.Helper()
	b := &bed{Node: node.Run(t, opts), registry: regtest.New(t, regtest.Options{})}
	b.command = newCommand(t, filepath.Join(b.Dir(), "referee.toml"))
	socket := filepath.Join(b.Dir(), "referee", "cri.sock")
	if !strings.Contains(settings, "[completion]") { // requests are counted
		settings += "\n[completion]\nenabled = false\n"
	}
	b.text = fmt.Sprintf(`version = 1
root = %q
state = %q
%s
[cri]
socket = %q
backend = %q
[registry]
config_path = %q
%s
[log]
level = "debug"
format = "text"
%s`, filepath.Join(b.Dir(), "referee-root"), filepath.Join(b.Dir(), "referee-state"), settings,
		socket, b.Socket(), filepath.Join(b.Dir(), "certs.d"), strings.Join(access, "\n"), anyImage)
	b.referee = b.RunReferee(t, node.RefereeOptions{Binary: b.binary, Socket: socket, Config: b.text})
	var err error
	if b.lazy, err = b.referee.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.lazy.Close)
	return b
}

// command is the referee binary with a configuration.
type command struct{ binary, config string }

func newCommand(t *testing.T, config string) command {
	t.Helper()
	binary, err := tools.Referee(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return command{binary, config}
}

// try runs the binary as a user would and returns what it prints. The error holds
// what it prints elsewhere.
func (c command) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var stdout, stderr strings.Builder
	run := exec.CommandContext(ctx, c.binary, append([]string{"--config", c.config}, args...)...)
	run.Stdout, run.Stderr = &stdout, &stderr
	if err := run.Run(); err != nil {
		return stdout.String(), fmt.Errorf("referee %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// run is try for what must succeed.
func (c command) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// explain returns the journal's newest entry for ref. A pull is journalled just
// after its caller has the answer, so an entry older than since is waited out.
func (b *bed) explain(t *testing.T, ref string, since time.Time) fallback.Entry {
	t.Helper()
	journal := fallback.ReadJournal(filepath.Join(b.Dir(), "referee-root", "journal"))
	deadline := time.Now().Add(20 * time.Second)
	for {
		entry, err := journal.Last(ref)
		if err == nil && !entry.Time.Before(since) {
			return entry
		}
		if time.Now().After(deadline) {
			t.Fatalf("no journal entry of %s since %v: %v", ref, since, err)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pull pulls ref through Referee and checks how.
func (b *bed) pull(t *testing.T, ref string, want fallback.Outcome) fallback.Entry {
	t.Helper()
	started := time.Now()
	if _, err := b.lazy.Pull(t.Context(), ref, nil); err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	entry := b.explain(t, ref, started)
	if entry.Outcome != want {
		t.Fatalf("pull of %s was %s (%s: %s), want %s", ref, entry.Outcome, entry.Reason, entry.Sentence, want)
	}
	return entry
}

// removePod ends a container with its pod. It may be called again.
func removePod(t *testing.T, container *node.Container) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := container.Pod().Remove(ctx); err != nil {
		t.Errorf("remove pod: %v", err)
	}
}
