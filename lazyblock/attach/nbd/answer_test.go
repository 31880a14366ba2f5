package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"go.uber.org/zap/zaptest"
)

// content is a device in memory; it fails wherever fail is within a read.
type content struct {
	data []byte
	fail int64 // -1: nowhere
}

func (c content) Size() int64 { return int64(len(c.data)) }

func (c content) ReadRange(_ context.Context, p []byte, off int64) (int, error) {
	if off <= c.fail && c.fail < off+int64(len(p)) {
		return 0, errors.New("fails on purpose")
	}
	return bytes.NewReader(c.data).ReadAt(p, off)
}

func TestServerAnswers(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte{7}, 3*sectorSize+5)
	for name, tc := range map[string]struct {
		request request
		payload int
		code    uint32
		want    []byte
	}{
		"a read":                       {request{command: cmdRead, offset: sectorSize, length: 2 * sectorSize}, 0, 0, data[:2*sectorSize]},
		"the last sector with zeros":   {request{command: cmdRead, offset: 3 * sectorSize, length: sectorSize}, 0, 0, append(bytes.Repeat([]byte{7}, 5), make([]byte, sectorSize-5)...)},
		"a failing read with EIO":      {request{command: cmdRead, length: sectorSize}, 0, errIO, nil},
		"a read beyond the end":        {request{command: cmdRead, offset: 4 * sectorSize, length: sectorSize}, 0, errInvalid, nil},
		"a read whose end overflows":   {request{command: cmdRead, offset: 1<<64 - 512, length: 1024}, 0, errInvalid, nil},
		"a read of more than there is": {request{command: cmdRead, length: 1 << 31}, 0, errInvalid, nil},
		"a write with EPERM":           {request{command: cmdWrite, length: 100}, 100, errPermission, nil},
		"a command it does not know":   {request{command: 77}, 0, errInvalid, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := startServer(t, content{data: data, fail: 0})
			tc.request.cookie = 42
			send(t, conn, tc.request, tc.payload)
			receive(t, conn, 42, tc.code, tc.want)
			// The stream is still in step.
			send(t, conn, request{command: cmdRead, cookie: 43, offset: sectorSize, length: sectorSize}, 0)
			receive(t, conn, 43, 0, data[:sectorSize])
		})
	}
}

func TestServerEndsAtWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	s := newServer(content{data: make([]byte, sectorSize), fail: -1}, zaptest.NewLogger(t))
	for name, stream := range map[string]struct {
		bytes []byte
		fails bool
	}{
		"nothing":         {nil, false},
		"a wrong magic":   {make([]byte, requestSize), true},
		"half a request":  {encode(request{})[:10], true},
		"half a payload":  {append(encode(request{command: cmdWrite, length: 100}), 1, 2, 3), true},
		"only disconnect": {encode(request{command: cmdDisconnect}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := s.serve(t.Context(), readWriter{bytes.NewReader(stream.bytes), io.Discard})
			if (err != nil) != stream.fails {
				t.Errorf("got %v, want an error: %t", err, stream.fails)
			}
		})
	}
}

func FuzzServe(f *testing.F) {
	f.Add(append(encode(request{command: cmdRead, length: 1024}), encode(request{command: cmdWrite, length: 1 << 31})...))
	f.Add(encode(request{command: cmdRead, offset: 1 << 63, length: 1 << 31}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		s := newServer(content{data: make([]byte, 3000), fail: 2048}, zaptest.NewLogger(t))
		var out bytes.Buffer
		_ = s.serve(t.Context(), readWriter{bytes.NewReader(stream), &out})
		s.reads.Wait()
		if most := len(stream)/requestSize*(replySize+3072) + 1; out.Len() > most {
			t.Errorf("%d bytes were answered to %d", out.Len(), len(stream))
		}
	})
}

type readWriter struct {
	io.Reader
	io.Writer
}

func startServer(t *testing.T, c content) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	s := newServer(c, zaptest.NewLogger(t))
	done := make(chan error, 1)
	go func() { done <- s.serve(context.Background(), theirs) }() // ends with ours; waited for below
	t.Cleanup(func() {
		_ = ours.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.reads.Wait()
	})
	return ours
}

func encode(r request) []byte {
	message := make([]byte, requestSize)
	binary.BigEndian.PutUint32(message, requestMagic)
	binary.BigEndian.PutUint16(message[6:], r.command)
	binary.BigEndian.PutUint64(message[8:], r.cookie)
	binary.BigEndian.PutUint64(message[16:], r.offset)
	binary.BigEndian.PutUint32(message[24:], r.length)
	return message
}

func send(t *testing.T, conn net.Conn, r request, payload int) {
	t.Helper()
	if _, err := conn.Write(append(encode(r), make([]byte, payload)...)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn, cookie uint64, code uint32, want []byte) {
	t.Helper()
	got := make([]byte, replySize+len(want))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, replySize)
	putReply(header, code, cookie)
	if !bytes.Equal(got[:replySize], header) {
		t.Errorf("got header %x, want %x", got[:replySize], header)
	}
	if !bytes.Equal(got[replySize:], want) {
		t.Error("the data differs")
	}
}
