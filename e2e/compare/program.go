package compare

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/referee-cri/referee/e2e/node"
)

// program says how to run an image's program and how to know that it works.
type program struct {
	command func(port int) []string // nil: the image's own
	ready   func(ctx context.Context, c *node.Container, port int) error
}

// programs are by the name of the image. Every container has a port of its own,
// since pods are on the host's network.
var programs = map[string]program{ //nolint:gochecknoglobals // a constant table
	"small":  {nil, logs("ready")},
	"python": {nil, logs("ready 45")},
	"redis":  {portAsArgument("/usr/bin/redis-server", "/etc/redis/redis.conf", "--port"), answers("PING\r\n", "+PONG")},
	"node":   {portAsArgument("/usr/bin/node", "/app/main.js"), answers(getPage, "HTTP/1.1 200 ")},
	"nginx":  {portAsArgument("/app/start"), answers(getPage, "HTTP/1.1 200 ")},
	// AuthenticationOk; until the database is up the answer is an error.
	"postgres": {portAsArgument("/app/start"), answers(postgresStartup(), "R")},
}

const getPage = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// postgresStartup asks for a session (PostgreSQL's protocol 3.0, StartupMessage).
func postgresStartup() string {
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	return string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + string(body)
}

func portAsArgument(command ...string) func(port int) []string {
	return func(port int) []string { return append(command[:len(command):len(command)], strconv.Itoa(port)) }
}

// logs waits for a line of the container's log.
func logs(text string) func(context.Context, *node.Container, int) error {
	return func(ctx context.Context, c *node.Container, _ int) error { return c.WaitLog(ctx, text) }
}

// answers connects and asks until the right answer begins to come.
func answers(question, right string) func(context.Context, *node.Container, int) error {
	return func(ctx context.Context, _ *node.Container, port int) error {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		return poll(ctx, 2*time.Millisecond, "the program answers", func() (bool, error) {
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
			if err != nil {
				return false, err
			}
			defer conn.Close()
			answer := make([]byte, len(right))
			_, err = io.WriteString(conn, question)
			if err = errors.Join(conn.SetReadDeadline(time.Now().Add(time.Second)), err); err == nil {
				_, err = io.ReadFull(conn, answer)
			}
			return bytes.Equal(answer, []byte(right)), err
		})
	}
}
