package translate

import (
	"errors"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"datapunk.dev/controlplane/resource"
)

// listenerTemplate is a listener but for where it binds, which is most often all
// that differs between the proxies of a service: it is checked and encoded once
// for all of them.
type listenerTemplate struct {
	name string
	rest []byte // all but name and address, encoded
	keys []string
	refs []resource.Ref
	err  error // what is wrong with it
}

// Fields of envoy.config.listener.v3.Listener. All others have higher numbers.
const (
	fieldListenerName    protowire.Number = 1
	fieldListenerAddress protowire.Number = 2
)

// template checks and encodes a listener that has no address yet.
func (d *builder) template(l *listenerv3.Listener, keys []string, refs []resource.Ref) listenerTemplate {
	t := listenerTemplate{name: l.Name, keys: keys, refs: refs}
	l.Address = socketAddress(anyAddress, 1)
	if err := l.ValidateAll(); err != nil {
		d.errs = append(d.errs, err)
	}
	if t.err = errors.Join(d.errs...); t.err != nil {
		return t
	}
	l.Name, l.Address = "", nil
	t.rest, t.err = encode(l)
	return t
}

// at is the listener at an address. It is what encoding the whole message would
// give, since fields are encoded in the order of their numbers.
func (t listenerTemplate) at(address string, port uint16) (*resource.Resource, error) {
	if t.err != nil {
		return nil, t.err
	}
	where := socketAddress(address, port)
	if err := where.ValidateAll(); err != nil {
		return nil, err
	}
	encoded, err := encode(where)
	if err != nil {
		return nil, err
	}
	size := protowire.SizeTag(fieldListenerName) + protowire.SizeBytes(len(t.name)) +
		protowire.SizeTag(fieldListenerAddress) + protowire.SizeBytes(len(encoded)) + len(t.rest)
	body := make([]byte, 0, size)
	body = protowire.AppendTag(body, fieldListenerName, protowire.BytesType)
	body = protowire.AppendString(body, t.name)
	body = protowire.AppendTag(body, fieldListenerAddress, protowire.BytesType)
	body = protowire.AppendBytes(body, encoded)
	body = append(body, t.rest...)
	return resource.New(resource.Listener, t.name, body, t.keys, t.refs), nil
}

// listenerTemplates are those of the proxies of a group.
type listenerTemplates struct {
	inbound, outbound, metrics listenerTemplate
	upstreams                  []listenerTemplate
	// onLoopback are outbound listeners by port: proxies on many machines have
	// the same.
	onLoopback map[uint16]*resource.Resource
}

// templatesOf returns those of a group, made once in a build.
func (b *build) templatesOf(g *group) *listenerTemplates {
	if t, ok := b.templates[g]; ok {
		return t
	}
	t := &listenerTemplates{
		inbound:    inboundListener(b.c, g.settings, g.listen.plaintextTCP),
		outbound:   outboundListener(b.c, g.settings),
		metrics:    part(b.c, metricsKey{}, func() listenerTemplate { return metricsListener(b.c) }),
		onLoopback: make(map[uint16]*resource.Resource),
	}
	for _, u := range g.listen.upstreams {
		t.upstreams = append(t.upstreams, outboundTCPListener(b.c, g.settings, u))
	}
	b.templates[g] = t
	return t
}

// metricsKey is for the one metrics listener of a mesh.
type metricsKey struct{}

func (t *listenerTemplates) outboundAt(port uint16) (*resource.Resource, error) {
	if r, ok := t.onLoopback[port]; ok {
		return r, nil
	}
	r, err := t.outbound.at(loopback, port)
	if err == nil {
		t.onLoopback[port] = r
	}
	return r, err
}
