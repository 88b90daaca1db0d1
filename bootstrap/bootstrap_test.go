package bootstrap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"
)

var update = flag.Bool("update", false, "write the golden files, and remove those that no test has")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCA is a root that never changes, so that golden files don't.
func testCA(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sidecar is a bootstrap as most are; a test changes what it is about.
func sidecar(t testing.TB, change func(*Options)) Options {
	t.Helper()
	o := Options{
		Service: "lake_service", NodeID: "lake-1",
		AppPort: 8080, MeshPort: 15443,
		AdminSocket:  "/run/mesh/lake-1.admin.sock",
		XDSAddresses: []string{"127.0.0.1:18000"},
		CAPEM:        testCA(t),
		TokenFile:    "/run/mesh/lake-1.token.yaml",
	}
	if change != nil {
		change(&o)
	}
	return o
}

// examples are the bootstraps with a golden file, each of which a real Envoy
// must accept.
func examples(t testing.TB) map[string]Options {
	return map[string]Options{
		"minimal": sidecar(t, nil),
		"full": sidecar(t, func(o *Options) {
			o.OutboundPort, o.MetricsPort = 15002, 9103
			o.Address, o.Version = "10.0.0.7", "1.10"
			o.Region, o.Zone, o.SubZone = "eu-1", "eu-1a", "rack-7"
			o.XDSAddresses = []string{"10.0.0.2:18000", "[2001:db8::2]:18000"}
		}),
		"hostnames": sidecar(t, func(o *Options) {
			o.XDSAddresses = []string{"control-1.example:18000", "10.0.0.2:18000"}
		}),
		"unix": sidecar(t, func(o *Options) { o.XDSAddresses = []string{"unix:/run/mesh/xds.sock"} }),
		"plaintext": sidecar(t, func(o *Options) {
			o.Plaintext, o.CAPEM, o.TokenFile = true, nil, ""
		}),
		"words-that-look-like-values": sidecar(t, func(o *Options) {
			o.Service, o.NodeID, o.Version, o.Zone = "1e3", "on", "y", "nan"
		}),
	}
}

func render(t testing.TB, o Options) []byte {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	out, err := YAML(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stale := make(map[string]bool)
	for _, f := range files {
		stale[f] = true
	}
	for name, o := range examples(t) {
		path := filepath.Join("testdata", name+".golden.yaml")
		delete(stale, path)
		got := render(t, o)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	for path := range stale {
		if !*update {
			t.Errorf("%s belongs to no test", path)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheSameOptionsGiveTheSameBytes(t *testing.T) {
	for name, o := range examples(t) {
		first, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		second, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		text := string(render(t, o))
		for range 20 {
			if string(render(t, o)) != text {
				t.Fatalf("%s: two renderings differ", name)
			}
		}
	}
}

func TestTheBootstrapHoldsNoSecret(t *testing.T) {
	out := string(render(t, sidecar(t, nil)))
	for _, word := range []string{"PRIVATE KEY", "Bearer", "initial_metadata"} {
		if strings.Contains(out, word) {
			t.Errorf("it has %q", word)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	_, keyPEM := rootWithoutURI(t)
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no service":                 {func(o *Options) { o.Service = "" }, "is no SPIFFE path segment"},
		"a service with a slash":     {func(o *Options) { o.Service = "a/b" }, "is no SPIFFE path segment"},
		"the control plane's name":   {func(o *Options) { o.Service = "control-plane" }, "is reserved"},
		"no node":                    {func(o *Options) { o.NodeID = "" }, "the node id is empty"},
		"no app port":                {func(o *Options) { o.AppPort = 0 }, "the app port is 0"},
		"no mesh port":               {func(o *Options) { o.MeshPort = 0 }, "the mesh port is 0"},
		"app on the mesh port":       {func(o *Options) { o.MeshPort = o.AppPort }, "the app port and the mesh port are both 8080"},
		"metrics on the mesh port":   {func(o *Options) { o.MetricsPort = o.MeshPort }, "the mesh port and the metrics port are both 15443"},
		"outbound on the app port":   {func(o *Options) { o.OutboundPort = o.AppPort }, "the app port and the outbound port are both 8080"},
		"a name as app address":      {func(o *Options) { o.AppAddress = "localhost" }, `app address "localhost" is no IP`},
		"every address of the app":   {func(o *Options) { o.AppAddress = "::" }, `app address "::" is no IP that`},
		"a name as address":          {func(o *Options) { o.Address = "lake.example" }, `address "lake.example" is no IP`},
		"no admin socket":            {func(o *Options) { o.AdminSocket = "" }, "admin socket: no path"},
		"a relative admin socket":    {func(o *Options) { o.AdminSocket = "a.sock" }, "is not an absolute path"},
		"an admin socket too long":   {func(o *Options) { o.AdminSocket = "/" + strings.Repeat("a", 107) }, "has 108 bytes, a Unix socket's path has at most 107"},
		"no xDS address":             {func(o *Options) { o.XDSAddresses = nil }, "no xDS address"},
		"an xDS address alone":       {func(o *Options) { o.XDSAddresses = []string{"10.0.0.1"} }, "want HOST:PORT or unix:PATH"},
		"an xDS port of 0":           {func(o *Options) { o.XDSAddresses = []string{"10.0.0.1:0"} }, "not a number from 1 to 65535"},
		"an xDS port too large":      {func(o *Options) { o.XDSAddresses = []string{"10.0.0.1:65536"} }, "not a number from 1 to 65535"},
		"every address":              {func(o *Options) { o.XDSAddresses = []string{"0.0.0.0:18000"} }, "where a server listens"},
		"an xDS port alone":          {func(o *Options) { o.XDSAddresses = []string{":18000"} }, "no host"},
		"names and sockets":          {func(o *Options) { o.XDSAddresses = []string{"a.example:1", "unix:/x"} }, "host names and Unix sockets"},
		"no CA":                      {func(o *Options) { o.CAPEM = nil }, "CA: no certificate"},
		"a CA that is no PEM":        {func(o *Options) { o.CAPEM = []byte("x") }, "CA: not PEM"},
		"a key in the CA":            {func(o *Options) { o.CAPEM = append(o.CAPEM, keyPEM...) }, `a PEM block "PRIVATE KEY"`},
		"no token file":              {func(o *Options) { o.TokenFile = "" }, "no token file"},
		"a relative token file":      {func(o *Options) { o.TokenFile = "token.yaml" }, "is not an absolute path"},
		"plaintext over the network": {func(o *Options) { plaintext(o); o.XDSAddresses = []string{"10.0.0.1:18000"} }, "plaintext to 10.0.0.1:18000"},
		"plaintext to a name":        {func(o *Options) { plaintext(o); o.XDSAddresses = []string{"localhost:18000"} }, "plaintext to localhost:18000"},
		"plaintext with a token":     {func(o *Options) { o.Plaintext = true }, "plaintext excludes a CA and a token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := New(sidecar(t, tt.change))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func plaintext(o *Options) { o.Plaintext, o.CAPEM, o.TokenFile = true, nil, "" }

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := New(Options{Address: "x"})
	for _, want := range []string{"service", "node id", "app port", "mesh port", "address", "admin socket", "xDS address", "token file", "CA"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in %v", want, err)
		}
	}
}

func TestPortsMayBeSharedByDifferentAddresses(t *testing.T) {
	for _, app := range []string{"::1", "10.0.0.7"} {
		o := sidecar(t, func(o *Options) { o.Address, o.AppAddress, o.MeshPort = "10.0.0.7", app, o.AppPort })
		if _, err := New(o); (err == nil) != (app == "::1") {
			t.Errorf("the application at %s: %v", app, err)
		}
	}
	if _, err := New(sidecar(t, func(o *Options) { o.Address, o.MeshPort = "10.0.0.7", o.AppPort })); err != nil {
		t.Errorf("the app on loopback and the mesh outside: %v", err)
	}
}

func TestTheTrustDomainIsTheRootsUnlessGiven(t *testing.T) {
	if out := string(render(t, sidecar(t, nil))); !strings.Contains(out, "exact: spiffe://datapunk/control-plane\n") {
		t.Error("not the root's")
	}
	bare, _ := rootWithoutURI(t)
	if _, err := New(sidecar(t, func(o *Options) { o.CAPEM = bare })); err == nil {
		t.Error("a root of no trust domain was accepted")
	}
	out := string(render(t, sidecar(t, func(o *Options) { o.CAPEM, o.TrustDomain = bare, "elsewhere" })))
	if !strings.Contains(out, "exact: spiffe://elsewhere/control-plane\n") {
		t.Error("not the one given")
	}
}

// rootWithoutURI makes an authority that says nothing of a trust domain.
func rootWithoutURI(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
