package wire

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that everything else goes through
	"google.golang.org/grpc/mem"
)

// Codec lets streams hand over responses that are already encoded and read
// requests without building a message for each; every other message (other
// services on the same server) passes through the codec of gRPC.
type Codec struct {
	encoding.CodecV2
}

// NewCodec returns the codec of a gRPC server that carries streams.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Marshal implements [encoding.CodecV2].
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*Response); ok {
		return r.data, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2].
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	var read func([]byte)
	switch m := v.(type) {
	case *Request:
		read = func(b []byte) { m.Malformed = m.unmarshal(b) }
	case *HealthMessage:
		read = func(b []byte) { m.Malformed = m.unmarshal(b) }
	default:
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	read(buf.ReadOnlyData())
	return nil
}
