package bootstrap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/xds"
)

// grpcClient is a client as most are.
func grpcClient(change func(*GRPCOptions)) GRPCOptions {
	o := GRPCOptions{
		Service: "reports", NodeID: "reports-1", XDSAddresses: []string{"10.0.0.2:18000"},
		CAFile: "/run/mesh/ca.pem", TokenFile: "/run/mesh/reports-1.token", SVIDDir: "/run/mesh/reports-1",
	}
	if change != nil {
		change(&o)
	}
	return o
}

// TestTheBootstrapOfAGRPCClient compares with the golden files, and has gRPC
// read each.
func TestTheBootstrapOfAGRPCClient(t *testing.T) {
	for name, o := range map[string]GRPCOptions{
		"grpc-mtls": grpcClient(func(o *GRPCOptions) {
			o.Region, o.Zone, o.SubZone = "eu-1", "eu-1a", "rack-7"
			o.XDSAddresses = []string{"control-1.example:18000", "[2001:db8::2]:18000", "unix:/run/mesh/xds.sock"}
		}),
		"grpc-plaintext": grpcClient(func(o *GRPCOptions) {
			o.Plaintext, o.CAFile, o.TokenFile, o.SVIDDir = true, "", "", ""
			o.XDSAddresses = []string{"127.0.0.1:18000"}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := GRPC(o)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			if o.Plaintext { // with TLS it looks for the files at once, for ever
				if _, err := xds.NewXDSResolverWithConfigForTesting(got); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAGRPCClientsBootstrapIsChecked(t *testing.T) {
	for _, c := range []struct {
		change func(*GRPCOptions)
		want   string
	}{
		{func(o *GRPCOptions) { o.Service = "control-plane" }, `service name "control-plane" is reserved`},
		{func(o *GRPCOptions) { o.Service = "a/b" }, "no SPIFFE path segment"},
		{func(o *GRPCOptions) { o.NodeID = "" }, "the node id is empty"},
		{func(o *GRPCOptions) { o.XDSAddresses = nil }, "no xDS address"},
		{func(o *GRPCOptions) { o.CAFile, o.TokenFile = "", "" }, "no CA file\nno token file"},
		{func(o *GRPCOptions) { o.SVIDDir = "svid" }, `SVID directory "svid" is not an absolute path`},
		{func(o *GRPCOptions) { o.Plaintext = true }, "plaintext excludes a CA, a token and certificates"},
		{func(o *GRPCOptions) {
			*o = GRPCOptions{Service: "a", NodeID: "a-1", XDSAddresses: o.XDSAddresses, Plaintext: true}
		}, "only loopback addresses"},
	} {
		if _, err := GRPC(grpcClient(c.change)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
