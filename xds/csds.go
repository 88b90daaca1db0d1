package xds

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	statusv3 "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/resource"
)

// The client status discovery service (CSDS) tells the field's own tools what each
// proxy is served and what it made of it. It is for operators: a proxy's token does not
// open it.

// StatusMethods are the methods of CSDS, which callers without a credential of a proxy
// may call: see [Options.Joins].
var StatusMethods = []string{
	statusv3.ClientStatusDiscoveryService_FetchClientStatus_FullMethodName,
	statusv3.ClientStatusDiscoveryService_StreamClientStatus_FullMethodName,
}

const (
	// maxStatusProxies is how many proxies an answer with contents may have, and
	// maxStatusEntries how many resources any: who asks matches fewer, then.
	maxStatusProxies = 20
	maxStatusEntries = 200_000
	// maxStatusCalls is how many answers are made at a time: each looks at every proxy.
	maxStatusCalls = 4
)

// registerStatus adds CSDS. Who calls is found out before anything that they send is
// read.
func (s *Server) registerStatus(r grpc.ServiceRegistrar) {
	if s.options.Operator == nil {
		return
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: statusv3.ClientStatusDiscoveryService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "FetchClientStatus", Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			fetch := func(ctx context.Context, _ any) (any, error) { return s.fetchStatus(ctx, decode) }
			if intercept == nil {
				return fetch(ctx, nil)
			}
			return intercept(ctx, nil, &grpc.UnaryServerInfo{Server: s, FullMethod: StatusMethods[0]}, fetch)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "StreamClientStatus", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			return s.streamStatus(stream)
		}}},
	}, nil)
}

// fetchStatus answers one request.
func (s *Server) fetchStatus(ctx context.Context, decode func(any) error) (*statusv3.ClientStatusResponse, error) {
	if _, err := s.options.Operator(ctx); err != nil {
		return nil, err
	}
	defer occupy(ctx)()
	in := new(statusv3.ClientStatusRequest)
	if err := decode(in); err != nil {
		return nil, err
	}
	return s.clientStatus(ctx, in)
}

// streamStatus answers requests as they come, for as long as the operator's token is good.
func (s *Server) streamStatus(stream grpc.ServerStream) error {
	ctx := stream.Context()
	expires, err := s.options.Operator(ctx)
	if err != nil {
		return err
	}
	defer occupy(ctx)()
	var expired <-chan time.Time
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
		defer timer.Stop()
		expired = timer.C
	}
	requests, failed := make(chan *statusv3.ClientStatusRequest), make(chan error, 1)
	go func() { // until this handler returns, which ends ctx and the stream with it
		for {
			in := new(statusv3.ClientStatusRequest)
			if err := stream.RecvMsg(in); err != nil {
				failed <- err
				return
			}
			select {
			case requests <- in:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-expired:
			return errExpired
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case in := <-requests:
			out, err := s.clientStatus(ctx, in)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(out); err != nil {
				return err
			}
		}
	}
}

// clientStatus answers of the proxies of this replica that match.
func (s *Server) clientStatus(ctx context.Context, in *statusv3.ClientStatusRequest) (*statusv3.ClientStatusResponse, error) {
	select {
	case s.statusSlots <- struct{}{}:
		defer func() { <-s.statusSlots }()
	default:
		return nil, status.Errorf(codes.ResourceExhausted, "%d others ask for the status of the proxies: ask again", maxStatusCalls)
	}
	out := &statusv3.ClientStatusResponse{}
	entries := 0
	for _, p := range s.Proxies() {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		ok, err := matchesAny(in.GetNodeMatchers(), p.Node)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		config := s.clientConfig(&p, !in.GetExcludeResourceContents())
		entries += len(config.GetGenericXdsConfigs())
		if entries > maxStatusEntries || !in.GetExcludeResourceContents() && len(out.GetConfig()) == maxStatusProxies {
			return nil, status.Errorf(codes.ResourceExhausted, "more than %d proxies with contents, or %d resources, match: name some by node_matchers, or exclude the contents", maxStatusProxies, maxStatusEntries)
		}
		out.Config = append(out.Config, config)
	}
	return out, nil
}

// clientConfig is one proxy with what it is served.
func (s *Server) clientConfig(p *ProxyStatus, contents bool) *statusv3.ClientConfig {
	config := &statusv3.ClientConfig{Node: &corev3.Node{
		Id: p.Node, Cluster: p.Service, UserAgentName: p.Agent, UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: p.Version},
		Locality: &corev3.Locality{Zone: p.Profile.Zone},
	}}
	served, _ := s.Served(p.Node)
	for _, r := range served {
		t := p.Types[r.Type.String()]
		one := &statusv3.ClientConfig_GenericXdsConfig{
			TypeUrl: r.Type.URL(), Name: r.Name, VersionInfo: r.Version,
			ConfigStatus: configStatuses[t.State], ClientStatus: clientStatuses[t.State],
		}
		// Of a type that is REJECTED the others are as they should be.
		if n := t.LastNack; t.State == Rejected {
			one.ConfigStatus, one.ClientStatus = statusv3.ConfigStatus_SYNCED, adminv3.ClientResourceStatus_ACKED
			if n != nil && n.Resource == r.Name {
				one.ConfigStatus, one.ClientStatus = statusv3.ConfigStatus_ERROR, adminv3.ClientResourceStatus_NACKED
				one.ErrorState = &adminv3.UpdateFailureState{Details: n.Message, VersionInfo: n.Version, LastUpdateAttempt: timestamppb.New(n.Time)}
			}
		}
		if contents {
			one.XdsConfig = &anypb.Any{TypeUrl: r.Type.URL(), Value: r.Body}
		}
		config.GenericXdsConfigs = append(config.GenericXdsConfigs, one)
	}
	// Its certificate is named, as it is named to the proxy; the key is in no view.
	if c := p.Certificate; c != nil {
		config.GenericXdsConfigs = append(config.GenericXdsConfigs, &statusv3.ClientConfig_GenericXdsConfig{
			TypeUrl: resource.Secret.URL(), Name: resource.SecretIdentity, VersionInfo: c.Version,
			ConfigStatus: configStatuses[p.Types[resource.Secret.String()].State], ClientStatus: clientStatuses[p.Types[resource.Secret.String()].State],
		})
	}
	return config
}

// What the states of a type are in the words of CSDS.
var (
	configStatuses = map[State]statusv3.ConfigStatus{
		NotSent: statusv3.ConfigStatus_NOT_SENT, Pending: statusv3.ConfigStatus_STALE, Synced: statusv3.ConfigStatus_SYNCED, Rejected: statusv3.ConfigStatus_ERROR,
	}
	clientStatuses = map[State]adminv3.ClientResourceStatus{
		NotSent: adminv3.ClientResourceStatus_UNKNOWN, Pending: adminv3.ClientResourceStatus_REQUESTED, Synced: adminv3.ClientResourceStatus_ACKED, Rejected: adminv3.ClientResourceStatus_NACKED,
	}
)

// matchesAny reports whether one of the matchers takes a node.id; all are taken if there
// are none. Metadata is not kept, so that nothing can be said of it.
func matchesAny(matchers []*matcherv3.NodeMatcher, node string) (bool, error) {
	for _, m := range matchers {
		if len(m.GetNodeMetadatas()) > 0 {
			return false, status.Error(codes.InvalidArgument, "proxies are matched by node_id alone")
		}
		ok, err := matches(m.GetNodeId(), node)
		if ok || err != nil {
			return ok, err
		}
	}
	return len(matchers) == 0, nil
}

func matches(m *matcherv3.StringMatcher, s string) (bool, error) {
	if m.GetIgnoreCase() {
		return false, status.Error(codes.InvalidArgument, "a node_id has its case")
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return s == p.Exact, nil
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(s, p.Prefix), nil
	case *matcherv3.StringMatcher_Suffix:
		return strings.HasSuffix(s, p.Suffix), nil
	case *matcherv3.StringMatcher_Contains:
		return strings.Contains(s, p.Contains), nil
	}
	return false, status.Error(codes.InvalidArgument, "node_id is matched by exact, prefix, suffix or contains")
}
