// Package api is what a sidecar and a control plane say to each other on the
// xDS port, beside ADS: how a machine joins, what its Envoy starts with, how its
// application is, and how it leaves. Both sides of the calls are here; what they mean is not.
//
// The messages are JSON in google.protobuf.BytesValue. A control plane refuses a
// field that it does not know, and says so; a sidecar ignores one.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serviceName = "controlplane.v1.Sidecars"
	// MethodJoin is the one method whose callers have no token of a node yet.
	MethodJoin = "/" + serviceName + "/Join"
	// joinHeader has the request of Join. It is in the headers so that of a
	// caller who has proved nothing no body need be read.
	joinHeader = "controlplane-join-bin"
	// maxRequest bounds a request in bytes.
	maxRequest = 64 << 10
)

// Kind says what a machine shows to join.
type Kind string

// The kinds of credentials that are exchanged for a node's token.
const (
	JoinToken   Kind = "join-token"
	ConsulToken Kind = "consul-token" // of Consul's ACL
	NomadToken  Kind = "nomad-token"  // a workload identity
)

// JoinRequest asks for a node's token. The credential itself is in the
// authorization header.
type JoinRequest struct {
	Kind    Kind   `json:"kind"`
	Service string `json:"service,omitempty"` // empty: as the credential says
	Node    string `json:"node,omitempty"`    // empty: the control plane names it
	// Attempt is a secret of the machine's own, the same when it asks again
	// because no answer came: that counts as one use of a join token.
	Attempt string `json:"attempt"`
}

// Joined is the answer: who the machine is, and the token that proves it.
type Joined struct {
	Service string `json:"service"`
	Node    string `json:"node"`
	Token   string `json:"token"`
}

// BootstrapRequest asks for what the Envoy of the calling node starts with.
// Paths are of the machine, and absolute.
type BootstrapRequest struct {
	AppPort      uint16            `json:"app_port"`
	MeshPort     uint16            `json:"mesh_port"`
	OutboundPort uint16            `json:"outbound_port"`
	MetricsPort  uint16            `json:"metrics_port"`
	Address      string            `json:"address"`
	Region       string            `json:"region,omitempty"`
	Zone         string            `json:"zone,omitempty"`
	SubZone      string            `json:"sub_zone,omitempty"`
	Version      string            `json:"version,omitempty"`
	Tags         []string          `json:"tags,omitempty"`
	Meta         map[string]string `json:"meta,omitempty"`
	XDSAddresses []string          `json:"xds_addresses"`
	AdminSocket  string            `json:"admin_socket"`
	TokenFile    string            `json:"token_file"`
}

// Bootstrap is the answer.
type Bootstrap struct {
	YAML string `json:"yaml"`
	// EnvoyVersion is the version, MAJOR.MINOR, that the control plane generates
	// configuration for.
	EnvoyVersion string `json:"envoy_version"`
}

// Place is where an instance of the calling node's service takes mTLS.
type Place struct {
	Address  string `json:"address"`
	MeshPort uint16 `json:"mesh_port"`
}

// Left says what became of a leave.
type Left struct {
	// Known is false if the catalog has no such instance: then nobody calls it.
	Known bool `json:"known"`
	// Acknowledged says that every connected proxy that calls the service has
	// acknowledged that it takes no new calls; false: the wait was over before.
	Acknowledged bool `json:"acknowledged"`
}

// Returned is the empty answer of Return.
type Returned struct{}

// HealthReport says how the application of the calling node is, if the sidecar
// checks it, and asks whether it is to.
type HealthReport struct {
	// Health is passing, warning or critical; empty: it was not checked.
	Health string `json:"health,omitempty"`
	// First is set until a report was answered on the connection: those before it
	// may have gone to another control plane.
	First bool `json:"first,omitempty"`
}

// AppCheck is the answer: what the sidecar is to check from now on.
type AppCheck struct {
	GRPC               bool          `json:"grpc,omitempty"` // by grpc.health.v1; false: nothing
	Interval           time.Duration `json:"interval,omitempty"`
	Timeout            time.Duration `json:"timeout,omitempty"`
	UnhealthyThreshold uint32        `json:"unhealthy_threshold,omitempty"`
	HealthyThreshold   uint32        `json:"healthy_threshold,omitempty"`
	// Next is when to report again, if nothing changes before.
	Next time.Duration `json:"next"`
}

// Server is the control plane's side.
type Server interface {
	Join(ctx context.Context, r *JoinRequest) (*Joined, error)
	Bootstrap(ctx context.Context, r *BootstrapRequest) (*Bootstrap, error)
	// Leave returns when nobody calls the place any more, or after a while.
	Leave(ctx context.Context, r *Place) (*Left, error)
	// Return ends what Leave began: the place takes calls again.
	Return(ctx context.Context, r *Place) (*Returned, error)
	// Health takes what the check of the application came to.
	Health(ctx context.Context, r *HealthReport) (*AppCheck, error)
}

// Register serves the calls.
func Register(s grpc.ServiceRegistrar, impl Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*Server)(nil),
		Methods: []grpc.MethodDesc{
			method("Join", fromHeader, Server.Join),
			method("Bootstrap", fromBody, Server.Bootstrap),
			method("Leave", fromBody, Server.Leave),
			method("Return", fromBody, Server.Return),
			method("Health", fromBody, Server.Health),
		},
	}, impl)
}

// method describes a call whose request source reads.
func method[In, Out any](name string, source func(ctx context.Context, body func(any) error) ([]byte, error),
	call func(Server, context.Context, *In) (*Out, error),
) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, body func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		handle := func(ctx context.Context, _ any) (any, error) {
			data, err := source(ctx, body)
			if err != nil {
				return nil, err
			}
			in := new(In)
			if err := decodeStrict(data, in); err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "%s: %v", name, err)
			}
			out, err := call(srv.(Server), ctx, in)
			if err != nil {
				return nil, err
			}
			answer, err := json.Marshal(out)
			if err != nil {
				return nil, err
			}
			return wrapperspb.Bytes(answer), nil
		}
		if intercept == nil {
			return handle(ctx, nil)
		}
		return intercept(ctx, nil, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + name}, handle)
	}}
}

func fromBody(_ context.Context, body func(any) error) ([]byte, error) {
	in := new(wrapperspb.BytesValue)
	if err := body(in); err != nil {
		return nil, err
	}
	return in.GetValue(), nil
}

func fromHeader(ctx context.Context, _ func(any) error) ([]byte, error) {
	values := metadata.ValueFromIncomingContext(ctx, joinHeader)
	if len(values) != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "want exactly one header %s", joinHeader)
	}
	return []byte(values[0]), nil
}

func decodeStrict(data []byte, into any) error {
	if len(data) > maxRequest {
		return fmt.Errorf("the request has %d bytes, the limit is %d", len(data), maxRequest)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the request is not understood, is the control plane older than the sidecar? %w", err)
	}
	if d.More() {
		return fmt.Errorf("the request is more than one value")
	}
	return nil
}

// Join exchanges a credential for a node's token. The context carries the
// credential, see [token.NewContext].
func Join(ctx context.Context, conn grpc.ClientConnInterface, r *JoinRequest) (*Joined, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return call[Joined](metadata.AppendToOutgoingContext(ctx, joinHeader, string(data)), conn, "Join", nil)
}

// FetchBootstrap asks for what the Envoy of the calling node starts with. Like
// all calls but Join it takes a context with the node's token.
func FetchBootstrap(ctx context.Context, conn grpc.ClientConnInterface, r *BootstrapRequest) (*Bootstrap, error) {
	return call[Bootstrap](ctx, conn, "Bootstrap", r)
}

// Leave has nobody call the place any more.
func Leave(ctx context.Context, conn grpc.ClientConnInterface, r *Place) (*Left, error) {
	return call[Left](ctx, conn, "Leave", r)
}

// Return has the place called again.
func Return(ctx context.Context, conn grpc.ClientConnInterface, r *Place) error {
	_, err := call[Returned](ctx, conn, "Return", r)
	return err
}

// Health says how the application is, and returns what is to be checked.
func Health(ctx context.Context, conn grpc.ClientConnInterface, r *HealthReport) (*AppCheck, error) {
	return call[AppCheck](ctx, conn, "Health", r)
}

func call[Out any](ctx context.Context, conn grpc.ClientConnInterface, name string, in any) (*Out, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	answer := new(wrapperspb.BytesValue)
	if err := conn.Invoke(ctx, "/"+serviceName+"/"+name, wrapperspb.Bytes(body), answer); err != nil {
		return nil, err
	}
	out := new(Out)
	if err := json.Unmarshal(answer.GetValue(), out); err != nil {
		return nil, fmt.Errorf("the control plane's answer is not understood: %w", err)
	}
	return out, nil
}
