package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// envNode marks every process that runs for a node with the node's folder, so
// that the sweep finds those whose command line does not name it.
const envNode = "REFEREE_E2E_NODE"

func processEnv(dir string, extra ...string) []string {
	return append(append(os.Environ(), envNode+"="+dir), extra...)
}

// process is a subprocess with its output in a file. Its done channel closes
// when it has ended; the one goroutine is the waiter that closes it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

func startProcess(logPath string, env []string, name string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()                  // the child has its own descriptor
	cmd := exec.Command(name, args...) //nolint:noctx // outlives the caller's context: ended by stop
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	// Its own process group: an interrupt at the terminal ends us, and we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process; stop waits for it
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop sends the signal and waits; after the grace period the process is killed
// and that is an error.
func (p *process) stop(signal syscall.Signal, grace time.Duration) error {
	_ = p.cmd.Process.Signal(signal) // already ended: seen next
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
	}
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
		return fmt.Errorf("%s (pid %d) ignored %s for %s and was killed", p.cmd.Path, p.pid(), signal, grace)
	case <-time.After(grace):
		return fmt.Errorf("%s (pid %d) survives SIGKILL", p.cmd.Path, p.pid())
	}
}

// until polls a condition until it holds, the process ends, or ctx is done.
func (p *process) until(ctx context.Context, what string, condition func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("wait until %s: %s ended: %w", what, p.cmd.Path, errors.Join(p.err, err))
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}

func readLog(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
