package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/tools"
)

// RefereeOptions say how to run the daemon.
type RefereeOptions struct {
	Config string   // text of its configuration file
	Socket string   // where that configuration makes it listen
	Binary string   // built from the checkout when empty
	Args   []string // after `serve --config FILE`
	Env    []string // added to the environment
}

// Referee is the daemon as a subprocess. Its methods are not safe for
// concurrent use.
type Referee struct {
	opts RefereeOptions
	node *Node
	proc *process
}

// StartReferee runs `referee serve` for the node and returns once its socket
// answers. Node.Stop ends it too, and removes what it mounted below Dir.
func (n *Node) StartReferee(ctx context.Context, opts RefereeOptions) (*Referee, error) {
	if opts.Binary == "" {
		binary, err := tools.Referee(ctx)
		if err != nil {
			return nil, err
		}
		opts.Binary = binary
	}
	r := &Referee{opts: opts, node: n}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Start runs the daemon again after Stop or Kill, with the same configuration.
func (r *Referee) Start(ctx context.Context) error {
	config := r.node.path("referee.toml")
	if err := os.WriteFile(config, []byte(r.opts.Config), 0o600); err != nil {
		return fmt.Errorf("write referee configuration: %w", err)
	}
	env := append(processEnv(r.node.dir), r.opts.Env...)
	proc, err := startProcess(r.node.path("referee.log"), env, r.opts.Binary, append([]string{"serve", "--config", config}, r.opts.Args...)...)
	if err != nil {
		return err
	}
	r.proc = proc
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.proc.until(ctx, "referee answers", r.answers); err != nil {
		return errors.Join(fmt.Errorf("start referee: %w\n%s", err, tail(r.Log(), 40)), r.proc.stop(unix.SIGKILL, 10*time.Second))
	}
	return nil
}

func (r *Referee) answers(ctx context.Context) error {
	client, err := r.node.Through(r.opts.Socket)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.List(ctx)
	return err
}

// Client returns a kubelet whose image socket is Referee's. The caller closes it.
func (r *Referee) Client() (*Client, error) { return r.node.Through(r.opts.Socket) }

// Reconfigure changes the configuration for the next Start.
func (r *Referee) Reconfigure(config string) { r.opts.Config = config }

// Upgrade changes the binary for the next Start.
func (r *Referee) Upgrade(binary string) { r.opts.Binary = binary }

// PID is the daemon's process id.
func (r *Referee) PID() int { return r.proc.pid() }

// Stop ends the daemon as systemd does: SIGTERM, then time to finish.
func (r *Referee) Stop() error { return r.proc.stop(unix.SIGTERM, 30*time.Second) }

// Kill ends the daemon with SIGKILL and waits until it is gone.
func (r *Referee) Kill() error { return r.proc.stop(unix.SIGKILL, 10*time.Second) }

// Stacks ends the daemon with SIGQUIT and returns which function began each
// goroutine that it had, and how many each began.
func (r *Referee) Stacks() (map[string]int, error) {
	before := len(r.Log())
	if err := r.proc.stop(unix.SIGQUIT, 10*time.Second); err != nil {
		return nil, err
	}
	begun := make(map[string]int)
	for line := range strings.Lines(r.Log()[before:]) {
		if by, ok := strings.CutPrefix(line, "created by "); ok {
			by, _, _ = strings.Cut(by, " in goroutine")
			begun[strings.TrimSpace(by)]++
		}
	}
	if len(begun) == 0 {
		return nil, fmt.Errorf("no goroutines in the log of a daemon that was told to quit:\n%s", tail(r.Log(), 20))
	}
	return begun, nil
}

// Log returns what the daemon has logged so far, over all starts.
func (r *Referee) Log() string { return readLog(r.node.path("referee.log")) }
