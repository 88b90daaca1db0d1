package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Replicas ask each other for the proxies that they have, on the port where proxies
// connect. A fleet is too large for Consul's KV, and changes too often.

const (
	serviceName = "controlplane.v1.Replicas"
	// MethodProxies is called by other control planes alone, who show no token of a
	// proxy.
	MethodProxies = "/" + serviceName + "/Proxies"

	// messageSize is how large a message of an answer gets before it is sent, and
	// maxAnswer bounds all of them: 20,000 proxies are 8 MB.
	messageSize = 256 << 10
	maxAnswer   = 64 << 20
)

// Serve answers other replicas with the proxies that this one has, each as JSON. Who
// calls is found out by verify, before anything that they send is read.
func Serve(s grpc.ServiceRegistrar, verify func(context.Context) error, proxies func() ([]json.RawMessage, error)) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Proxies", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			if err := verify(stream.Context()); err != nil {
				return err
			}
			all, err := proxies()
			if err != nil {
				return err
			}
			return inMessages(all, func(data []byte) error { return stream.SendMsg(wrapperspb.Bytes(data)) })
		}}},
	}, nil)
}

// inMessages sends a list as JSON lists of bounded size.
func inMessages(all []json.RawMessage, send func([]byte) error) error {
	for len(all) > 0 {
		n, size := 0, 0
		for n < len(all) && (n == 0 || size+len(all[n]) < messageSize) {
			size += len(all[n])
			n++
		}
		data, err := json.Marshal(all[:n])
		if err != nil {
			return err
		}
		if err := send(data); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// Proxies asks another replica for the proxies that it has. The context carries the
// token that it wants.
func Proxies(ctx context.Context, conn grpc.ClientConnInterface) ([]json.RawMessage, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, MethodProxies)
	if err != nil {
		return nil, err
	}
	// Its end, and not what is sent, says why a call was refused.
	if err := stream.SendMsg(new(emptypb.Empty)); err == nil {
		_ = stream.CloseSend()
	}
	var all []json.RawMessage
	for size := 0; ; {
		m := new(wrapperspb.BytesValue)
		switch err := stream.RecvMsg(m); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		if size += len(m.GetValue()); size > maxAnswer {
			return nil, fmt.Errorf("the answer has over %d MB", maxAnswer>>20)
		}
		var some []json.RawMessage
		if err := json.Unmarshal(m.GetValue(), &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
}
