//go:build component

package consul_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// many registers services beyond an agent's limit of 200 connections a client.
func many(t testing.TB, agent *consulagent.Agent, n int) {
	t.Helper()
	for i := range n {
		must(t, agent.Register(consulagent.Instance{
			Service: fmt.Sprintf("s%03d", i), ID: fmt.Sprintf("s%03d", i), Address: "10.0.0.1", Port: 1000 + i, MeshPort: 15006,
		}))
	}
}

func TestRealMoreServicesThanConnections(t *testing.T) {
	t.Parallel()
	agent := consulagent.ForTest(t, consulagent.Options{})
	const n = 260
	many(t, agent, n)
	o := observe(t, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	o.within(soon, "all is read", func() bool { return len(o.Status().Waiting) == 0 })
	if st := o.Status(); st.Mode != "http1+trigger" {
		t.Errorf("status %+v", st)
	}
	for i := 0; i < n; i += 13 {
		name := fmt.Sprintf("s%03d", i)
		must(t, agent.SetHealth(name, "critical"))
		o.within(soon, name+" critical", func() bool { return o.service(name).Instances[0].Health == watch.Critical })
	}
	if st := o.Stats(); st.TooMany > 0 || st.Errors > 0 || st.Cold == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestRealHTTP2(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	agent := consulagent.ForTest(t, consulagent.Options{CertFile: cert, KeyFile: key})
	const n = 260
	many(t, agent, n)
	o := observe(t, consul.Config{Address: agent.HTTPS, Scheme: "https", TLS: consul.TLS{CAFile: cert, ServerName: "consul.test"}}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	if st := o.Status(); st.Mode != "http2" {
		t.Errorf("status %+v", st)
	}
	must(t, agent.SetHealth("s250", "critical"))
	o.within(soon, "critical", func() bool { return o.service("s250").Instances[0].Health == watch.Critical })
	if st := o.Stats(); st.Cold > 0 || st.TooMany > 0 {
		t.Errorf("stats %+v", st)
	}

	stranger := observe(t, consul.Config{Address: agent.HTTPS, Scheme: "https"}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	stranger.within(soon, "said", stranger.waiting("certificate"))
}

// certificate writes a self-signed one for consul.test.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"consul.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	return certFile, keyFile
}

// BenchmarkRealChangeToEvent is the time from the write of a check at a real
// agent to the catalog that has it, the write included.
func BenchmarkRealChangeToEvent(b *testing.B) {
	agent := consulagent.ForTest(b, consulagent.Options{})
	const n = 130 // each has its turn, so that no watch is limited
	many(b, agent, n)
	o := observe(b, consul.Config{Address: agent.HTTP}, watchconsul.Config{}, watchconsul.Demand{MeshOnly: true})
	o.ready()
	for i := 0; b.Loop(); i++ {
		status := "critical"
		if i/n%2 == 1 {
			status = "passing"
		}
		before := o.published()
		must(b, agent.SetHealth(fmt.Sprintf("s%03d", i%n), status))
		for o.published() == before {
			<-o.news
		}
	}
}
