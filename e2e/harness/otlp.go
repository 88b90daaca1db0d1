package harness

import (
	"context"
	"encoding/hex"
	"net"
	"strconv"
	"sync"
	"testing"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Span is one span that arrived.
type Span struct {
	TraceID, SpanID, ParentID string
	Name                      string
	Kind                      trace.Span_SpanKind
	Attributes                map[string]string // of the span
	Resource                  map[string]string // of the process: service.name and the like
}

// Collector is an OTLP trace receiver.
type Collector struct {
	port int

	mu    sync.Mutex
	spans []Span
}

// StartCollector listens for OTLP over gRPC on a loopback port.
func StartCollector(t testing.TB) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &Collector{port: l.Addr().(*net.TCPAddr).Port}
	server := grpc.NewServer()
	server.RegisterService(&traceService, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return c
}

// Addr returns where it listens.
func (c *Collector) Addr() string { return "127.0.0.1:" + strconv.Itoa(c.port) }

// Port returns the port of Addr.
func (c *Collector) Port() int { return c.port }

// traceService is OTLP's, by hand: an ExportTraceServiceRequest has the bytes
// of a TracesData, and the package of the generated one needs an HTTP gateway.
var traceService = grpc.ServiceDesc{
	ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Export",
		Handler: func(srv any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			r := new(trace.TracesData)
			if err := dec(r); err != nil {
				return nil, err
			}
			srv.(*Collector).add(r)
			return new(emptypb.Empty), nil
		},
	}},
}

func (c *Collector) add(r *trace.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		resource := attributes(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, Span{
					TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()),
					ParentID: hex.EncodeToString(s.GetParentSpanId()),
					Name:     s.GetName(), Kind: s.GetKind(), Attributes: attributes(s.GetAttributes()), Resource: resource,
				})
			}
		}
	}
}

// Spans returns what arrived so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

func attributes(list []*common.KeyValue) map[string]string {
	out := make(map[string]string, len(list))
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		case *common.AnyValue_BoolValue:
			out[kv.GetKey()] = strconv.FormatBool(v.BoolValue)
		default:
			out[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return out
}
