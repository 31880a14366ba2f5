package link

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// serve accepts connections until the listener closes and gives each to handle.
func (l *Link) serve(listener net.Listener, handle func(net.Conn)) {
	l.wg.Go(func() { // ends with the listener; Close waits
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if l.adopt(conn) != nil {
				return
			}
			l.wg.Go(func() { // ends with the connection; Close waits
				defer l.release(conn)
				handle(conn)
			})
		}
	})
}

// splice joins a connection at the far end with the target, which is near to it.
func (l *Link) splice(conn net.Conn, target string) {
	server, err := dialServer(target)
	if err != nil || l.adopt(server) != nil {
		return // the client sees its connection closed
	}
	defer l.release(server)
	var both sync.WaitGroup
	both.Go(func() { pipe(server, conn) })
	both.Go(func() { pipe(conn, server) })
	both.Wait()
}

// dialServer connects to a server of this machine, which answers at once or never.
func dialServer(target string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", target)
}

func pipe(dst, src net.Conn) {
	_, _ = io.Copy(dst, src) // an end of either connection ends the copy
	closeWrite(dst)
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // already gone
	}
}

func listenLoopback() (net.Listener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
}
