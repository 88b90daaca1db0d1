package sds

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"datapunk.dev/controlplane/sds/identity"
)

const ttl = 48 * time.Hour

func webID(t testing.TB, ca *CA) spiffeid.ID {
	t.Helper()
	id, err := identity.ServiceID(ca.td, "web")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTheRootIsASigningCertificateOfItsTrustDomain(t *testing.T) {
	ca, _, _ := open(t)
	block, rest := pem.Decode(ca.Roots())
	if block == nil || len(rest) > 0 {
		t.Fatal("want one root")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsCA || root.MaxPathLen != 1 {
		t.Errorf("CA %v, path length %d", root.IsCA, root.MaxPathLen)
	}
	if len(root.URIs) != 1 || root.URIs[0].String() != "spiffe://datapunk" {
		t.Errorf("URI SANs %v", root.URIs)
	}
	if root.Subject.SerialNumber == "" {
		t.Error("the subject is not unique")
	}
	if years := time.Until(root.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("it lives %.1f years", years)
	}
	td, err := identity.TrustDomainOf(ca.Roots())
	if err != nil || td != ca.TrustDomain() {
		t.Errorf("TrustDomainOf: %v, %v", td, err)
	}
}

func TestAnSVIDFollowsTheSpecification(t *testing.T) {
	ca, _, _ := open(t)
	now := wallClock().Truncate(time.Second) // as certificates do
	s, err := ca.issue(now, webID(t, ca), ttl, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: s.key})
	parsed, err := x509svid.Parse(s.chain(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x509svid.Verify(parsed.Certificates, ca.roots.Load().bundle); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Certificates) != 2 {
		t.Fatalf("the chain has %d certificates, want the leaf and its intermediate", len(parsed.Certificates))
	}
	leaf, intermediate := parsed.Certificates[0], parsed.Certificates[1]
	if got := parsed.ID.String(); got != "spiffe://datapunk/web" {
		t.Errorf("identity %s", got)
	}
	if len(leaf.DNSNames) != 0 || len(leaf.Subject.Names) != 0 {
		t.Errorf("DNS SANs %v, subject %v", leaf.DNSNames, leaf.Subject)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b", leaf.KeyUsage)
	}
	if !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("extended key usage %v", leaf.ExtKeyUsage)
	}
	if len(leaf.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, intermediate.SubjectKeyId) {
		t.Error("key identifiers do not link the chain")
	}
	for _, e := range leaf.Extensions {
		// An empty subject makes the SAN the name, so it must be critical
		// (RFC 5280 section 4.2.1.6); X509-SVID wants the same of the key usage.
		if id := e.Id.String(); (id == "2.5.29.17" || id == "2.5.29.15") && !e.Critical {
			t.Errorf("extension %s is not critical", id)
		}
	}
	if got := now.Sub(leaf.NotBefore); got != time.Minute {
		t.Errorf("valid since %s", got)
	}
	if got := leaf.NotAfter.Sub(now); got != ttl {
		t.Errorf("valid for %s", got)
	}
	if intermediate.MaxPathLen != 0 || !intermediate.MaxPathLenZero || intermediate.URIs[0].String() != "spiffe://datapunk" {
		t.Errorf("intermediate: path length %d, URI %v", intermediate.MaxPathLen, intermediate.URIs)
	}
	if life := intermediate.NotAfter.Sub(now); life != 7*24*time.Hour {
		t.Errorf("the intermediate lives %s", life)
	}
	if n := len(leaf.SerialNumber.Bytes()); n != 20 {
		t.Errorf("the serial number has %d bytes", n)
	}
}

func TestEachProxyHasAKeyOfItsOwn(t *testing.T) {
	ca, _, _ := open(t)
	one, err := ca.issue(wallClock(), webID(t, ca), ttl, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := ca.issue(wallClock(), webID(t, ca), ttl, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one.key, two.key) || one.serial == two.serial {
		t.Error("two certificates share a key or a serial number")
	}
}

func TestTheIntermediateIsRenewedAtHalfOfItsLife(t *testing.T) {
	ca, _, _ := open(t)
	start := wallClock()
	serialAt := func(age, ttl time.Duration) string {
		i, err := ca.roots.Load().first.issuerFor(start.Add(age), ttl)
		if err != nil {
			t.Fatal(err)
		}
		return i.cert.SerialNumber.Text(16)
	}
	first := serialAt(0, ttl)
	if serialAt(83*time.Hour, ttl) != first {
		t.Error("renewed before its half")
	}
	second := serialAt(85*time.Hour, ttl)
	if second == first {
		t.Error("not renewed after its half")
	}
	if serialAt(85*time.Hour, 10*24*time.Hour) == second {
		t.Error("an intermediate of 7 days signs for 10")
	}
}

func TestACertificateNeverOutlivesItsIssuer(t *testing.T) {
	ca, _, _ := open(t)
	almost := ca.roots.Load().first.root.NotAfter.Add(-time.Hour)
	s, err := ca.issue(almost, webID(t, ca), ttl, serverNames{})
	if err != nil {
		t.Fatal(err)
	}
	if !s.notAfter.Equal(ca.roots.Load().first.root.NotAfter) {
		t.Errorf("it expires at %s, the root at %s", s.notAfter, ca.roots.Load().first.root.NotAfter)
	}
	if _, err := ca.issue(ca.roots.Load().first.root.NotAfter.Add(time.Second), webID(t, ca), ttl, serverNames{}); err == nil {
		t.Error("an expired root signs")
	}
}

// A certificate that is wrong in one way must not leave.
func TestTheLastCheckFindsWhatIsWrong(t *testing.T) {
	ca, _, _ := open(t)
	now := wallClock()
	id := webID(t, ca)
	other, _, _ := open(t)
	i, err := ca.roots.Load().first.issuerFor(now, ttl)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.roots.Load().first.issuerFor(now, ttl)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		modify func(*x509.Certificate)
		issuer *issuer
		curve  elliptic.Curve
		swap   bool // serve it with another key
		want   string
	}{
		{name: "nothing"},
		{name: "another service", modify: func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "datapunk", Path: "/db"}} }, want: "its identity is spiffe://datapunk/db"},
		{name: "two identities", modify: func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, want: "more than one URI SAN"},
		{name: "no identity", modify: func(c *x509.Certificate) { c.URIs = nil }, want: "no URI SAN"},
		{name: "a DNS SAN", modify: func(c *x509.Certificate) { c.DNSNames = []string{"spiffe.example"} }, want: "a SAN besides its URI"},
		{name: "a subject", modify: func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "web"} }, want: "subject is not empty"},
		{name: "an authority", modify: func(c *x509.Certificate) { c.IsCA = true }, want: "CA flag"},
		{name: "a signing key", modify: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, want: "keyCertSign"},
		{name: "encipherment", modify: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, want: "digitalSignature alone"},
		{name: "server only", modify: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, want: "serverAuth and clientAuth"},
		{name: "no key identifier", modify: func(c *x509.Certificate) { c.SubjectKeyId = nil }, want: "subject key identifier"},
		{name: "expired", modify: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, want: "it expired"},
		{name: "not yet valid", modify: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }, want: "valid from"},
		{name: "outlives its issuer", modify: func(c *x509.Certificate) { c.NotAfter = i.cert.NotAfter.Add(time.Hour) }, want: "outlives its issuer"},
		{name: "another root", issuer: foreign, want: "certificate signed by unknown authority"},
		{name: "another curve", curve: elliptic.P384(), want: "not on P-256"},
		{name: "another key", swap: true, want: "does not match"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			curve := tt.curve
			if curve == nil {
				curve = elliptic.P256()
			}
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keyID, err := subjectKeyID(&key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{
				SerialNumber:          big.NewInt(7),
				URIs:                  []*url.URL{id.URL()},
				NotBefore:             now.Add(-time.Minute),
				NotAfter:              now.Add(ttl),
				KeyUsage:              x509.KeyUsageDigitalSignature,
				ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
				BasicConstraintsValid: true,
				SubjectKeyId:          keyID,
			}
			if tt.modify != nil {
				tt.modify(template)
			}
			from := i
			if tt.issuer != nil {
				from = tt.issuer
			}
			cert, err := x509.CreateCertificate(rand.Reader, template, from.cert, &key.PublicKey, from.key)
			if err != nil {
				t.Fatal(err)
			}
			if tt.swap {
				if key, err = newKey(); err != nil {
					t.Fatal(err)
				}
			}
			pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			err = ca.check(&svid{id: id, cert: cert, key: pkcs8, issuer: from}, now)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("a good certificate: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tt.want))):
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

// The bar: 10,000 SVIDs in 3 s of CPU, so 300 µs each.
func BenchmarkIssue(b *testing.B) {
	ca, _, _ := open(b)
	id := webID(b, ca)
	for b.Loop() {
		if _, err := ca.issue(wallClock(), id, ttl, serverNames{}); err != nil {
			b.Fatal(err)
		}
	}
}

// X.520 bounds a common name by 64 letters, SPIFFE a trust domain by 255.
func TestALongTrustDomainFitsIntoTheSubjects(t *testing.T) {
	for _, letters := range []int{8, 50, 51, 52, 53, 64, 255} {
		name := strings.Repeat("d", letters)
		td := spiffeid.RequireTrustDomainFromString(name)
		ca, _, err := Open(t.TempDir(), name)
		if err != nil {
			t.Fatalf("%d letters: %v", letters, err)
		}
		leaf, err := ca.issue(time.Now(), webID(t, ca), time.Hour, serverNames{})
		if err != nil {
			t.Fatalf("%d letters: %v", letters, err)
		}
		for role, cert := range map[string]*x509.Certificate{"root": ca.roots.Load().first.root, "intermediate": leaf.issuer.cert} {
			cn := cert.Subject.CommonName
			if len(cn) > 64 || !strings.HasSuffix(cn, " "+role) || len(cert.Subject.SerialNumber) > 64 {
				t.Errorf("%d letters: subject %s", letters, cert.Subject)
			}
			if whole := name + " " + role; len(whole) <= 64 && cn != whole {
				t.Errorf("%d letters: common name %q", letters, cn)
			}
			if len(cert.URIs) != 1 || cert.URIs[0].String() != td.IDString() {
				t.Errorf("%d letters: URI SANs %v", letters, cert.URIs)
			}
		}
	}
}
