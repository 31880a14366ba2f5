// Package keeper keeps one file descriptor alive in a process of its own, so
// that the daemon can be killed, upgraded or restarted without the kernel
// object behind the descriptor going away.
//
// The protocol is one datagram each way over a SEQPACKET unix socket, with the
// descriptor as ancillary data. Only root reaches the socket: it is made with
// mode 0600 in a directory of the daemon's own. The keeper does nothing else: it
// opens no files, reads nothing from what it keeps, and needs no configuration.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The requests.
const (
	put  = 'P' // with a descriptor: keep it
	get  = 'G' // answer with the descriptor
	quit = 'Q' // let go of it and end
)

const network = "unixpacket"

const none = -1 // no descriptor

// answerTimeout bounds a conversation with the keeper, which only moves a descriptor.
const answerTimeout = 5 * time.Second

// retryInterval is how often a keeper that was just started is looked for.
const retryInterval = 5 * time.Millisecond

// Serve keeps a descriptor for whoever asks at path until it is told to quit or
// ctx ends. A keeper that is already there is left alone: it is an error.
func Serve(ctx context.Context, path string) error {
	if conn, err := dial(ctx, path); err == nil {
		_ = conn.Close()
		return fmt.Errorf("keep descriptor: another keeper serves %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep descriptor: %w", err)
	}
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("keep descriptor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer func() { _ = listener.Close() }()
	kept := none
	defer func() {
		if kept != none {
			_ = unix.Close(kept)
		}
	}()
	// kept is a bare number: an os.File would wake this process for every event on it.
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return nil //nolint:nilerr // closed: ctx ended
		}
		var done bool
		kept, done = converse(conn, kept)
		if done {
			return nil
		}
	}
}

// masking is held while the process has another umask.
var masking sync.Mutex

// listen makes the socket, which never has another mode than 0600.
func listen(path string) (*net.UnixListener, error) {
	masking.Lock()
	defer masking.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	return net.ListenUnix(network, address(path))
}

// converse answers one request and returns what is kept from now on.
func converse(conn *net.UnixConn, kept int) (now int, done bool) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	request, received, err := receive(conn)
	if err != nil {
		return kept, false
	}
	switch request {
	case put:
		if received == none {
			return kept, false
		}
		if kept != none {
			_ = unix.Close(kept)
		}
		_ = send(conn, put, none)
		return received, false
	case get:
		_ = send(conn, get, kept)
		return kept, false
	case quit:
		_ = send(conn, quit, none)
		return kept, true
	default:
		return kept, false
	}
}

// Client talks to the keeper at Path, and starts one when there is something to
// keep and none is there.
type Client struct {
	Path  string
	Start func(path string) error // starts a process that calls Serve
}

// Take returns a duplicate of what is kept, nil where nothing is, or no keeper.
func (c Client) Take(ctx context.Context) (*os.File, error) {
	fd, err := c.ask(ctx, get, none)
	if fd == none || absent(err) {
		if absent(err) {
			err = nil
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), "kept"), err
}

// Keep hands over a duplicate of f.
func (c Client) Keep(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn() // not Fd, which would make the descriptor blocking
	if err != nil {
		return fmt.Errorf("keep descriptor: %w", err)
	}
	var keepErr error
	err = raw.Control(func(fd uintptr) { keepErr = c.keep(ctx, int(fd)) })
	return errors.Join(err, keepErr)
}

func (c Client) keep(ctx context.Context, fd int) error {
	_, err := c.ask(ctx, put, fd)
	if err == nil || !absent(err) {
		return err
	}
	if err := c.Start(c.Path); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return err
		case <-retry.C: // until the new process listens
		}
		if _, err = c.ask(ctx, put, fd); err == nil {
			return nil
		}
	}
}

// Quit ends the keeper, and so whatever only it held. No keeper is no error.
func (c Client) Quit(ctx context.Context) error {
	_, err := c.ask(ctx, quit, none)
	if absent(err) {
		return nil
	}
	return err
}

func absent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

func (c Client) ask(ctx context.Context, request byte, fd int) (int, error) {
	conn, err := dial(ctx, c.Path)
	if err != nil {
		return none, fmt.Errorf("reach keeper: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(answerTimeout))
	if err := send(conn, request, fd); err != nil {
		return none, err
	}
	answer, received, err := receive(conn)
	if err != nil {
		return none, err
	}
	if answer != request {
		return none, fmt.Errorf("keeper answers %q, expected %q", answer, request)
	}
	return received, nil
}

func address(path string) *net.UnixAddr { return &net.UnixAddr{Name: path, Net: network} }

func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	return (&net.Dialer{Timeout: answerTimeout}).DialUnix(ctx, network, nil, address(path))
}

// send writes one request or answer, with a duplicate of fd unless that is none.
func send(conn *net.UnixConn, code byte, fd int) error {
	var rights []byte
	if fd != none {
		rights = unix.UnixRights(fd)
	}
	if _, _, err := conn.WriteMsgUnix([]byte{code}, rights, nil); err != nil {
		return fmt.Errorf("talk to keeper: %w", err)
	}
	return nil
}

// receive reads one request or answer and the descriptor that came with it.
func receive(conn *net.UnixConn) (code byte, fd int, err error) {
	message, ancillary := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, an, _, _, err := conn.ReadMsgUnix(message, ancillary)
	if err == nil && n != 1 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, none, fmt.Errorf("talk to keeper: %w", err)
	}
	controls, err := unix.ParseSocketControlMessage(ancillary[:an])
	if err != nil || len(controls) == 0 {
		return message[0], none, err
	}
	fds, err := unix.ParseUnixRights(&controls[0])
	if err != nil || len(fds) != 1 {
		return 0, none, fmt.Errorf("talk to keeper: expected one descriptor, got %d: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	return message[0], fds[0], nil
}
