package criimage

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// frame is one gRPC message as it came off the wire, decompressed, undecoded.
//
// It owns a reference to its buffers. Sending it hands the reference to gRPC;
// a frame that is not sent is given back with Free.
type frame struct {
	data mem.BufferSlice
}

// Free returns the buffers to their pool. Forgetting it costs an allocation
// later, not a leak.
func (f *frame) Free() {
	f.data.Free()
	f.data = nil
}

// rawCodec passes frames through by reference.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

// Marshal gives gRPC the frame's buffers together with the frame's reference.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("marshal %T: not a frame", v)
	}
	data := f.data
	f.data = nil
	return data, nil
}

// Unmarshal keeps data by taking a reference of its own.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("unmarshal into %T: not a frame", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// Name is empty so that calls keep the plain content type "application/grpc"
// unless the caller chose a subtype, which forwarding then names itself.
func (rawCodec) Name() string { return "" }
