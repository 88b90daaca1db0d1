package translate

import (
	"bytes"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/resource"
)

// check holds a view to what is true of every view: whatever a resource needs
// is in it, every message in it is valid, inside each Any too, and what Envoy
// takes and ought not to is not there.
func check(t *testing.T, v *sight) {
	t.Helper()
	for kind, set := range v.Sets {
		for r := range set.All() {
			if r.Type != resource.Type(kind) {
				t.Errorf("%s %s stands among the %s", r.Type, r.Name, resource.Type(kind))
			}
			for _, ref := range r.Refs {
				if (ref.Type == resource.Secret && ref.Name == resource.SecretIdentity) || v.Sets[ref.Type].Get(ref.Name) != nil {
					continue
				}
				t.Errorf("%s %s needs %s %s, which the view does not have", r.Type, r.Name, ref.Type, ref.Name)
			}
			m := decode(t, r, newMessage(r.Type))
			rewrite(t, m.ProtoReflect(), func(m proto.Message) { checkMessage(t, r, m) })
		}
	}
}

func checkMessage(t *testing.T, r *resource.Resource, m proto.Message) {
	t.Helper()
	if valid, ok := m.(interface{ ValidateAll() error }); ok {
		if err := valid.ValidateAll(); err != nil {
			t.Errorf("%s %s: %v", r.Type, r.Name, err)
		}
	}
	switch m := m.(type) {
	case *listenerv3.Listener:
		if m.ApiListener == nil && (m.EnableReusePort == nil || m.EnableReusePort.Value) {
			t.Errorf("listener %s lets a second Envoy share its port", m.Name)
		}
	case *tlsv3.CertificateValidationContext:
		if len(m.MatchTypedSubjectAltNames) == 0 && r.Name != resource.SecretRoots {
			t.Errorf("%s %s admits every identity", r.Type, r.Name)
		}
	case *routev3.ScopedRouteConfiguration:
		if key := m.Key.Fragments[0].GetStringKey(); key != strings.ToLower(key) {
			t.Errorf("no host is found under the key %s", key)
		}
	case *routev3.RouteConfiguration:
		domains := make(map[string]bool)
		for _, host := range m.VirtualHosts {
			for _, domain := range host.Domains {
				if domains[domain] {
					t.Errorf("route configuration %s has the domain %s twice", m.Name, domain)
				}
				domains[domain] = true
			}
		}
	}
}

// rewrite lets edit change a message and every message inside it, inside each
// Any too.
func rewrite(t *testing.T, m protoreflect.Message, edit func(proto.Message)) {
	t.Helper()
	edit(m.Interface())
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, inner.ProtoReflect(), edit)
		if packed.Value, err = encode(inner); err != nil {
			t.Fatal(err)
		}
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap() && f.MapValue().Message() == nil:
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				rewrite(t, v.Message(), edit)
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				rewrite(t, v.List().Get(i).Message(), edit)
			}
		default:
			rewrite(t, v.Message(), edit)
		}
		return true
	})
}

func decode[M proto.Message](t testing.TB, r *resource.Resource, m M) M {
	t.Helper()
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
	if again, err := encode(m); err != nil || !bytes.Equal(again, r.Body) {
		t.Errorf("%s: encoded again it differs (%v)", r.Name, err)
	}
	return m
}
