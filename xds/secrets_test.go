package xds

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// authority issues secrets whose version is a count.
type authority struct {
	leases []*testLease
	down   atomic.Bool
}

type testLease struct {
	authority     *authority
	service, node string
	changed       func()
	version       int
	adoptable     string
	adopted       []string
	released      bool
}

func (a *authority) Lease(service, node string, changed func()) (Lease, error) {
	l := &testLease{authority: a, service: service, node: node, changed: changed, version: 1, adoptable: "root.later.7"}
	a.leases = append(a.leases, l)
	return l, nil
}

func (l *testLease) Secret(name string) (*Secret, error) {
	if l.authority.down.Load() {
		return nil, errors.New("no authority")
	}
	if name != "default" && name != "spiffe://datapunk/"+l.service {
		return nil, ErrNoSecret
	}
	body, err := proto.Marshal(&tlspb.Secret{Name: name})
	return &Secret{
		Version: fmt.Sprint("v", l.version), Body: body, Serial: fmt.Sprint(l.version), Expires: time.Now().Add(time.Hour),
	}, err
}

func (l *testLease) Adopt(version string) bool {
	l.adopted = append(l.adopted, version)
	return version == l.adoptable
}

func (l *testLease) Release() { l.released = true }

func (l *testLease) renew() {
	l.version++
	l.changed()
}

// secretTest runs a test against a server with mTLS on, where every stream has
// the credential of nexus-1.
func secretTest(name string, t *testing.T, f func(t *testing.T, w *world, a *authority)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := &authority{}
			w := newWorld(testServer(func(o *Options) {
				o.Issuer = a
				o.Authenticate = func(context.Context) (Credential, error) {
					return Credential{Service: "nexus", Node: "nexus-1", Expires: time.Now().Add(24 * time.Hour)}, nil
				}
			}), secret("ROOTCA", "r1"), secret("spiffe://datapunk", "r1"),
				secret("callers/nexus", "c1"), secret("callers/lake", "c1"), secret("default", "stolen"),
				cluster("a", "1"), listener("in", "1"))
			w.publish()
			f(t, w, a)
			synctest.Wait()
		})
	})
}

func TestSecrets(t *testing.T) {
	secretTest("a proxy gets its own certificate, the roots and its callers", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.subscribe(sds, "default", "ROOTCA", "callers/nexus", "spiffe://datapunk", "spiffe://datapunk/nexus")
		c.expect("secret ROOTCA@r1 callers/nexus@c1 default@v1 spiffe://datapunk@r1 spiffe://datapunk/nexus@v1")
		if l := a.leases[0]; len(a.leases) != 1 || l.service != "nexus" || l.node != "nexus-1" {
			t.Errorf("leases %+v", a.leases)
		}
		c.close()
		synctest.Wait()
		if !a.leases[0].released {
			t.Error("the lease goes on")
		}
	})
	for _, name := range []string{
		"callers/lake", "spiffe://datapunk/lake", "spiffe://other/nexus", "spiffe://datapunk/nexus/x", "spiffe://datapunk/",
		"callers/", "key", "*",
	} {
		secretTest("it gets no secret "+name, t, func(t *testing.T, w *world, a *authority) {
			w.put(secret(name, "1")).publish() // not even if it is in its view
			c := openDelta(t, w.server)
			none := " -" + name // said of every name alike, there or not
			if name == "*" {
				none = ""
			}
			c.subscribe(sds, name)
			if name == "*" {
				c.silence("secrets are named")
			} else {
				c.expect("secret" + none)
			}
			c.subscribe(sds, "ROOTCA", name)
			c.expect("secret ROOTCA@r1" + none)
			w.put(secret(name, "2")).publish()
			c.silence("nor when it changes")
			s := openSotw(t, w.server)
			s.subscribe(sds, name)
			s.silence("nor in SotW")
		})
	}
	secretTest("nor a wildcard of secrets by an empty request", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.subscribe(sds)
		c.silence("secrets are named")
	})
	secretTest("a rotation sends one secret and moves nothing else", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.subscribe(cds)
		c.expect("cluster a@1")
		c.subscribe(lds)
		c.expect("listener in@1")
		c.subscribe(sds, "default", "ROOTCA")
		c.expect("secret ROOTCA@r1 default@v1")
		before := w.server.Proxies()[0].Types
		a.leases[0].renew()
		c.expect("secret default@v2")
		c.silence("that is all")
		p := w.server.Proxies()[0]
		for _, typ := range []string{"cluster", "listener"} {
			if !reflect.DeepEqual(p.Types[typ], before[typ]) {
				t.Errorf("%s moved from %+v to %+v", typ, before[typ], p.Types[typ])
			}
		}
		if p.Certificate == nil || p.Certificate.Serial != "2" {
			t.Errorf("certificate %+v", p.Certificate)
		}
	})
	secretTest("in SotW too", t, func(t *testing.T, w *world, a *authority) {
		c := openSotw(t, w.server)
		c.subscribe(sds, "default", "ROOTCA")
		c.expect("secret ROOTCA default")
		a.leases[0].renew()
		c.expect("secret default")
	})
	secretTest("new roots are sent", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.subscribe(sds, "default", "ROOTCA")
		c.expect("secret ROOTCA@r1 default@v1")
		w.put(secret("ROOTCA", "r2")).publish()
		c.expect("secret ROOTCA@r2")
	})
	secretTest("a certificate that is good until it is due is kept over a reconnect", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.reconnect(sds, []string{"default", "ROOTCA"}, "default", "root.later.7", "ROOTCA", "r1")
		c.silence("it has both")
		a.leases[0].renew()
		c.expect("secret default@v2")
	})
	secretTest("one that is not trusted any more is replaced", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.reconnect(sds, []string{"default"}, "default", "oldroot.later.7")
		c.expect("secret default@v1")
	})
	secretTest("a kept certificate that is asked for again is sent", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.reconnect(sds, []string{"default"}, "default", "root.later.7")
		c.silence("it has it")
		c.subscribe(sds, "default")
		c.expect("secret default@v1")
	})
	secretTest("while the authority is down the stream asks again, and the roots are sent", t, func(t *testing.T, w *world, a *authority) {
		a.down.Store(true)
		c := openDelta(t, w.server)
		c.subscribe(sds, "default", "ROOTCA")
		c.expect("secret ROOTCA@r1")
		time.Sleep(time.Hour)
		c.silence("still down")
		a.down.Store(false)
		time.Sleep(5 * time.Second)
		c.expect("secret default@v1")
	})
	secretTest("a rejected certificate is not sent again until the next", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.subscribe(sds, "default")
		c.nack(c.peek("secret default@v1"), "Failed to load private key")
		time.Sleep(time.Hour)
		c.silence("it is nacked")
		a.leases[0].renew()
		c.expect("secret default@v2")
	})
	secretTest("a listener refused for its certificate is sent again with the next", t, func(t *testing.T, w *world, a *authority) {
		w.put(listener("in", "2", sds.Ref("default"))).publish()
		c := openDelta(t, w.server)
		c.subscribe(lds)
		c.nack(c.peek("listener in@2"), "refused")
		c.subscribe(sds, "default")
		c.expect("secret default@v1")
		c.expect("listener in@2") // the secret was sent after it
		c.silence("done")
	})
}

func TestPlaintextHasNoPrivateKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authority{}
		w := newWorld(testServer(func(o *Options) { o.Issuer = a }), secret("ROOTCA", "r1"))
		w.publish()
		c := openDelta(t, w.server)
		c.subscribe(sds, "default", "spiffe://datapunk/nexus", "ROOTCA")
		c.expect("secret ROOTCA@r1 -default -spiffe://datapunk/nexus")
		c.silence("nobody has proved anything")
		if len(a.leases) != 0 {
			t.Error("a lease was taken")
		}
		c.close()
	})
}

// Versions that a client reports, of secrets that it may not have, are no
// reason to look for a certificate: in plaintext mode there is nobody to ask.
func TestAVersionOfASecretThatNobodyMayHave(t *testing.T) {
	names := []string{"default", "spiffe://datapunk/nexus", "spiffe://datapunk/lake", "callers/lake", "ROOTCA"}
	versions := []string{"default", "root.later.7", "spiffe://datapunk/nexus", "root.later.7", "spiffe://datapunk/lake", "root.later.7", "callers/lake", "c1"}
	for _, issuer := range []Issuer{nil, &authority{}} {
		protocolTest(fmt.Sprintf("in plaintext mode, issuer %T", issuer), t, func(t *testing.T, w *world) {
			w.server.options.Issuer = issuer
			w.put(secret("ROOTCA", "r1")).publish()
			c := openDelta(t, w.server)
			c.reconnect(sds, names, versions...)
			c.expect("secret ROOTCA@r1")
			c.silence("what it has from elsewhere is not ours to take")
			w.put(secret("ROOTCA", "r2")).publish()
			c.expect("secret ROOTCA@r2")
			// SotW reports one version for all, and is told of none.
			s := openSotw(t, w.server)
			s.node.Id = "nexus-2"
			s.send(&discovery.DiscoveryRequest{Node: s.takeNode(), TypeUrl: sds.URL(), ResourceNames: names, VersionInfo: "root.later.7"})
			s.expect("secret ROOTCA")
			c.close()
			s.close()
			w.server.wantEmpty(t)
			if a, ok := issuer.(*authority); ok && len(a.leases) != 0 {
				t.Error("a lease was taken for who has proved nothing")
			}
		})
	}
	secretTest("with a credential, of another service", t, func(t *testing.T, w *world, a *authority) {
		c := openDelta(t, w.server)
		c.reconnect(sds, []string{"spiffe://datapunk/lake"}, "spiffe://datapunk/lake", "root.later.7")
		c.silence("it may not have that")
		if len(a.leases) != 0 {
			t.Error("a lease was taken for the identity of another service")
		}
		c.close()
	})
}

func TestAuthentication(t *testing.T) {
	allow := func(c Credential) func(*Options) {
		return func(o *Options) { o.Authenticate = func(context.Context) (Credential, error) { return c, nil } }
	}
	later := func() time.Time { return time.Now().Add(time.Hour) }
	for _, tt := range []struct {
		name    string
		options func(*Options)
		node    [2]string // id, cluster
		want    codes.Code
	}{
		{"no valid credential", func(o *Options) {
			o.Authenticate = func(context.Context) (Credential, error) { return Credential{}, errors.New("bad token") }
		}, [2]string{"nexus-1", "nexus"}, codes.Unauthenticated},
		{"the authenticator's own code is kept", func(o *Options) {
			o.Authenticate = func(context.Context) (Credential, error) {
				return Credential{}, status.Error(codes.Unavailable, "no keys yet")
			}
		}, [2]string{"nexus-1", "nexus"}, codes.Unavailable},
		{"an empty credential", allow(Credential{}), [2]string{"", ""}, codes.Unauthenticated},
		{"another node", allow(Credential{Service: "nexus", Node: "nexus-1"}), [2]string{"nexus-2", "nexus"}, codes.PermissionDenied},
		{"another service", allow(Credential{Service: "nexus", Node: "nexus-1"}), [2]string{"nexus-1", "lake"}, codes.PermissionDenied},
		{"a node without an id", func(*Options) {}, [2]string{"", "nexus"}, codes.InvalidArgument},
		{"a node without a service", func(*Options) {}, [2]string{"nexus-1", ""}, codes.InvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(testServer(tt.options), cluster("a", "1"))
				w.publish()
				c := openDelta(t, w.server)
				c.node.Id, c.node.Cluster = tt.node[0], tt.node[1]
				c.subscribe(cds)
				if got := status.Code(c.end()); got != tt.want {
					t.Errorf("code %v, want %v", got, tt.want)
				}
			})
		})
	}

	t.Run("the stream ends with the credential", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(testServer(allow(Credential{Service: "nexus", Node: "nexus-1", Expires: later()})), cluster("a", "1"))
			w.publish()
			c := openDelta(t, w.server)
			c.subscribe(cds)
			c.expect("cluster a@1")
			time.Sleep(time.Hour - 1)
			c.silence("still valid")
			time.Sleep(time.Nanosecond)
			if got := status.Code(c.end()); got != codes.Unauthenticated {
				t.Errorf("code %v", got)
			}
		})
	})
	t.Run("the node may not change on a stream", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(testServer(), cluster("a", "1"))
			w.publish()
			c := openDelta(t, w.server)
			same := proto.CloneOf(c.node)
			c.subscribe(cds)
			c.expect("cluster a@1")
			c.deltaNode(same) // as Envoy does by default
			c.silence("the same node")
			same.Cluster = "lake"
			c.deltaNode(same)
			if got := status.Code(c.end()); got != codes.InvalidArgument {
				t.Errorf("code %v", got)
			}
		})
	})
	t.Run("the first request must carry the node", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(testServer(), cluster("a", "1"))
			w.publish()
			c := openDelta(t, w.server)
			c.node = nil
			c.subscribe(cds)
			if got := status.Code(c.end()); got != codes.InvalidArgument {
				t.Errorf("code %v", got)
			}
		})
	})
}
