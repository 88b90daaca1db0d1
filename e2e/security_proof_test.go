package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/e2e/harness"
)

func TestNodeThatAsksForAnotherServicesSecretGetsNothing(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: withPolicies(nexusToBank) + "  services: {bank: {protocol: tcp}}\n"})
	m.Add(harness.Spec{Service: "bank", ID: "bank-1", SpeaksTCP: true})
	nexus := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1"})
	m.Ready()
	token := tokenOf(t, nexus.TokenFile)

	others := []string{
		meshID("bank"), meshID("control-plane"), meshID("nexus/x"), meshID("nexus/"), meshID(""), meshID("*"), meshID("../bank"),
		"spiffe://other/nexus", "callers/bank", "callers/", "callers/nexus/../bank", "bank", "bank-1", "xds_token", "*",
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			client := dialDiscovery(t, m)
			before := m.Metrics()["controlplane_xds_unauthorized_secrets_total"]
			got, err := client.demand(t, kind, nodeOf("nexus", "nexus-1"), append(slices.Clone(others), "default", meshID("nexus")), token)
			noError(t, err)
			for name := range got {
				if !slices.Contains([]string{"default", trustBundle, meshID("nexus")}, name) {
					t.Errorf("got the secret %s", name)
				}
			}
			// It did ask, and gets what is its own.
			if want := []string{"default is " + meshID("nexus"), meshID("nexus") + " is " + meshID("nexus")}; !slices.Equal(ids(t, got), want) {
				t.Errorf("certificates: %q, want %q", ids(t, got), want)
			}
			if roots := got[trustBundle]; roots.GetTlsCertificate() != nil || roots.GetValidationContext() == nil {
				t.Errorf("ROOTCA is %v", roots)
			}
			if n := m.Metrics()["controlplane_xds_unauthorized_secrets_total"] - before; n < float64(len(others)-3) {
				t.Errorf("only %v refusals were counted for %d names", n, len(others))
			}
		})
	}
	if log := m.Plane.Log.String(); !strings.Contains(log, `"msg":"secret refused"`) || !strings.Contains(log, meshID("bank")) {
		t.Error("the log names no refused secret")
	}
}

func TestNodeWithAWrongTokenAnExpiredOneOrAnotherNodeIDGetsNothing(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	nexus := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1"})
	lake := m.Prepare(harness.Spec{Service: "lake_service", ID: "lake-1"})
	stranger := harness.Start(t, harness.Options{Overlay: quietMesh})
	strangers := stranger.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1"})
	good := tokenOf(t, nexus.TokenFile)
	header, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	now := time.Now()
	claim := func(name string, value any) string {
		return forge(t, m, func(_ map[string]any, c jwt.MapClaims) { c[name] = value })
	}

	me := nodeOf("nexus", "nexus-1")
	cases := []struct {
		name          string
		service, node string
		authorization []string
		want          codes.Code
	}{
		{"no token", "nexus", "nexus-1", nil, codes.Unauthenticated},
		{"two tokens", "nexus", "nexus-1", []string{good, good}, codes.Unauthenticated},
		{"not a token", "nexus", "nexus-1", []string{"Bearer x"}, codes.Unauthenticated},
		{"another scheme", "nexus", "nexus-1", []string{"Basic " + strings.TrimPrefix(good, "Bearer ")}, codes.Unauthenticated},
		{"another mesh's token", "nexus", "nexus-1", []string{tokenOf(t, strangers.TokenFile)}, codes.Unauthenticated},
		{"another payload", "nexus", "nexus-1", []string{header + "." + strings.ToUpper(payload) + "." + signature}, codes.Unauthenticated},
		{"no signature", "nexus", "nexus-1", []string{header + "." + payload + "."}, codes.Unauthenticated},
		{"alg none", "nexus", "nexus-1", []string{unsigned(t, m)}, codes.Unauthenticated},
		{"expired", "nexus", "nexus-1", []string{forge(t, m, func(_ map[string]any, c jwt.MapClaims) {
			c["iat"], c["nbf"], c["exp"] = now.Add(-time.Hour).Unix(), now.Add(-time.Hour).Unix(), now.Add(-time.Second).Unix()
		})}, codes.Unauthenticated},
		{"not valid yet", "nexus", "nexus-1", []string{claim("nbf", now.Add(time.Hour).Unix())}, codes.Unauthenticated},
		{"without an end", "nexus", "nexus-1", []string{claim("exp", nil)}, codes.Unauthenticated},
		{"for something else", "nexus", "nexus-1", []string{claim("aud", "billing")}, codes.Unauthenticated},
		{"of another trust domain", "nexus", "nexus-1", []string{claim("sub", "spiffe://other/nexus")}, codes.Unauthenticated},
		{"without a node", "nexus", "nexus-1", []string{claim("node", "")}, codes.Unauthenticated},
		{"another node id", "nexus", "nexus-2", []string{good}, codes.PermissionDenied},
		{"another service", "lake_service", "nexus-1", []string{good}, codes.PermissionDenied},
		{"another node's token", "nexus", "nexus-1", []string{tokenOf(t, lake.TokenFile)}, codes.PermissionDenied},
		{"no node id", "nexus", "", []string{good}, codes.PermissionDenied},
		{"no service", "", "nexus-1", []string{good}, codes.PermissionDenied},
	}
	wanted := []string{"default", meshID("nexus"), meshID("lake_service"), "callers/nexus"}
	for _, kind := range kinds {
		client := dialDiscovery(t, m)
		for _, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				got, err := client.demand(t, kind, nodeOf(c.service, c.node), wanted, c.authorization...)
				refused(t, got, err, c.want)
			})
		}
		t.Run(kind+"/the right one", func(t *testing.T) {
			got, err := client.demand(t, kind, me, wanted, good)
			noError(t, err)
			if certificates := ids(t, got); len(certificates) != 2 {
				t.Errorf("certificates: %q", certificates)
			}
		})
	}

	t.Run("another node id in a later request", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, err := dialDiscovery(t, m).open(ctx, "delta ADS", nodeOf("nexus", "nexus-1"), good)
		noError(t, err)
		noError(t, s.send(secretType, trustBundle))
		if _, _, err := s.recv(); err != nil {
			t.Fatal(err)
		}
		s.node = nodeOf("lake_service", "lake-1")
		noError(t, s.send(secretType, "default"))
		_, got, err := s.recv()
		if status.Code(err) != codes.PermissionDenied || len(got) > 0 {
			t.Errorf("%v, %v; want PermissionDenied", got, err)
		}
	})

	t.Run("a token that expires ends its stream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		until := time.Now().Add(2 * time.Second)
		short := claim("exp", until.Unix())
		s, err := dialDiscovery(t, m).open(ctx, "delta ADS", me, short)
		noError(t, err)
		noError(t, s.send(secretType, "default"))
		if _, got, err := s.recv(); err != nil || got["default"] == nil {
			t.Fatalf("while it is valid: %v, %v", got, err)
		}
		_, got, err := s.recv()
		if status.Code(err) != codes.Unauthenticated || time.Now().After(until.Add(2*time.Second)) || len(got) > 0 {
			t.Errorf("ended %s after the end of the token: %v, %v", time.Since(until), got, err)
		}
	})

	t.Run("plaintext", func(t *testing.T) {
		got, err := dialDiscoveryInPlaintext(t, m).demand(t, "delta ADS", me, wanted, good)
		refused(t, got, err, codes.Unavailable)
	})

	if log := m.Plane.Log.String(); strings.Contains(log, signature) || strings.Contains(log, payload) {
		t.Error("the log has a token in it")
	}
}

// unsigned is a token that says that it needs no signature.
func unsigned(t *testing.T, m *harness.Mesh) string {
	t.Helper()
	claims := jwt.MapClaims{}
	good := strings.TrimPrefix(forge(t, m, func(map[string]any, jwt.MapClaims) {}), "Bearer ")
	token, _, err := jwt.NewParser().ParseUnverified(good, claims)
	noError(t, err)
	none := jwt.NewWithClaims(jwt.SigningMethodNone, claims)
	none.Header["kid"] = token.Header["kid"]
	raw, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	noError(t, err)
	return "Bearer " + raw
}

func TestEnvoyWithAnotherNodesTokenIsNeverReadyAndWithItsOwnItIs(t *testing.T) {
	m := harness.Start(t, harness.Options{Overlay: quietMesh})
	thief := m.Prepare(harness.Spec{Service: "nexus", ID: "nexus-1"})
	other := m.Prepare(harness.Spec{Service: "lake_service", ID: "lake-1"})
	own, err := os.ReadFile(thief.TokenFile)
	noError(t, err)
	stolen, err := os.ReadFile(other.TokenFile)
	noError(t, err)
	noError(t, os.WriteFile(thief.TokenFile, stolen, 0o600))
	m.Launch(thief)

	harness.Eventually(t, "the Envoy was refused three times", 20*time.Second, func() error {
		if n := m.Metrics()[`controlplane_xds_refused_streams_total{reason="identity"}`]; n < 3 {
			return fmt.Errorf("%v times", n)
		}
		return nil
	})
	if err := thief.Envoy.Ready(); err == nil {
		t.Error("it is ready")
	}
	for _, r := range m.Dump("nexus-1").Resources {
		if r.Name != "xds_token" { // its own, of a file, and not shown
			t.Errorf("it was given %s %s", r.Type, r.Name)
		}
		if token := strings.TrimPrefix(tokenOf(t, thief.TokenFile), "Bearer "); strings.Contains(string(r.Body), token) {
			t.Errorf("the token is in the dump: %s", r.Body)
		}
	}
	if got := pushed(t, m, nil); len(got) > 0 {
		t.Errorf("it was sent %v", got)
	}
	if proxies := m.Proxies(); len(proxies) > 0 {
		t.Errorf("it is shown as a proxy: %v", proxies)
	}

	// Nothing but the token was in its way.
	replaceFile(t, thief.TokenFile, own)
	noError(t, thief.Envoy.WaitReady(t.Context(), 20*time.Second))
}

// replaceFile puts a file in place by rename, which is what Envoy notices.
func replaceFile(t *testing.T, path string, content []byte) {
	t.Helper()
	noError(t, os.WriteFile(path+".new", content, 0o600))
	noError(t, os.Rename(path+".new", path))
}
