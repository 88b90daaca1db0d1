//go:build component

package xds

import (
	"net"
	"path/filepath"
	"testing"

	accesslogpb "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filelogpb "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	tcppb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
)

// tcpListener is one that a real Envoy takes, but for what a test changes.
func tcpListener(port int, change func(*listenerpb.Listener, *tcppb.TcpProxy)) *resource.Resource {
	proxy := &tcppb.TcpProxy{StatPrefix: "x", ClusterSpecifier: &tcppb.TcpProxy_Cluster{Cluster: "a"}}
	filter := &listenerpb.Filter{Name: "envoy.filters.network.tcp_proxy"}
	l := &listenerpb.Listener{
		Name: "tcp", Address: address(port), FilterChains: []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{filter}}},
	}
	change(l, proxy)
	if filter.ConfigType == nil {
		filter.ConfigType = &listenerpb.Filter_TypedConfig{TypedConfig: pack(proxy)}
	}
	return encode(lds, "tcp", "1", l)
}

func accessLog(path, format string) []*accesslogpb.AccessLog {
	log := &filelogpb.FileAccessLog{Path: path, AccessLogFormat: &filelogpb.FileAccessLog_LogFormat{
		LogFormat: &corepb.SubstitutionFormatString{Format: &corepb.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: format}},
		}},
	}}
	return []*accesslogpb.AccessLog{{Name: "file", ConfigType: &accesslogpb.AccessLog_TypedConfig{TypedConfig: pack(log)}}}
}

// What a real Envoy says when it refuses a resource for something of its own.
func TestEnvoyCauses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	busy := taken.Addr().(*net.TCPAddr).Port
	for _, p := range []protocol{delta, sotw} {
		t.Run(p.String(), func(t *testing.T) {
			e := startEnvoy(t, p)
			e.wantSynced(t)
			free := freePort(t)
			for _, tt := range []struct {
				want string
				bad  *resource.Resource
			}{
				{causeAddressInUse, tcpListener(busy, func(*listenerpb.Listener, *tcppb.TcpProxy) {})},
				{causeNoAddress, tcpListener(free, func(l *listenerpb.Listener, _ *tcppb.TcpProxy) {
					l.Address.GetSocketAddress().Address = "192.0.2.1" // of documentation: no machine has it
				})},
				{causeFile, tcpListener(free, func(_ *listenerpb.Listener, p *tcppb.TcpProxy) {
					p.AccessLog = accessLog(filepath.Join(t.TempDir(), "none", "access.log"), "%START_TIME%")
				})},
				{causeSocket, tcpListener(free, func(l *listenerpb.Listener, _ *tcppb.TcpProxy) {
					l.SocketOptions = []*corepb.SocketOption{{
						Level: 1, Name: 9999, Value: &corepb.SocketOption_IntValue{IntValue: 1}, State: corepb.SocketOption_STATE_PREBIND,
					}}
				})},
				{causeBuild, tcpListener(free, func(l *listenerpb.Listener, _ *tcppb.TcpProxy) {
					l.FilterChains[0].Filters[0].ConfigType = &listenerpb.Filter_TypedConfig{TypedConfig: pack(&structpb.Struct{})}
					l.FilterChains[0].Filters[0].Name = "envoy.filters.network.of_next_year"
				})},
				{causeListener, tcpListener(e.port, func(*listenerpb.Listener, *tcppb.TcpProxy) {})},
				{"", tcpListener(free, func(_ *listenerpb.Listener, p *tcppb.TcpProxy) {
					p.AccessLog = accessLog("/dev/null", "%NO_SUCH_COMMAND%")
				})},
			} {
				e.put(tt.bad).publish()
				e.eventually(t, "REJECTED", func() bool { return e.status().Types["listener"].State == Rejected })
				if nack := e.status().Types["listener"].LastNack; nack.Resource != "tcp" || nack.Cause != tt.want {
					t.Errorf("cause %q, want %q: %s", nack.Cause, tt.want, nack.Message)
				}
				e.remove(lds, "tcp").publish()
				e.wantSynced(t)
			}
		})
	}
}
