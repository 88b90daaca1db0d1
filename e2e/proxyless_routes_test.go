package e2e

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/e2e/run"
)

// TestGRPCClientWithoutAnEnvoyIsRouted: it splits, and has faults, as the file says.
func TestGRPCClientWithoutAnEnvoyIsRouted(t *testing.T) {
	routes := func(text string) string {
		return harness.MTLSOff + `  services: {grpc_service: {protocol: grpc, subsets: {stable: {tag: stable}, canary: {}}, default_subset: stable}}
  routes:
` + text
	}
	const split = `    - {name: rewritten, service: grpc_service, match: [{path: {prefix: /old}}], rewrite: {prefix: /new}}
    - {name: canary, service: grpc_service, match: [{grpc: {service: mesh.e2e.Echo}}], split: [{subset: stable, weight: 80}, {subset: canary, weight: 20}], mirror: {subset: canary}, timeout: {request: 5s}}
`
	m := harness.Start(t, harness.Options{Overlay: routes(split), Plaintext: true})
	bareApp(t, m, run.Instance{Service: "grpc_service", ID: "stable", Tags: []string{"stable"}})
	bareApp(t, m, run.Instance{Service: "grpc_service", ID: "canary", Tags: []string{"canary"}})
	client := startProxyless(t, m, "reports", "reports-1", false)
	client.reaches("grpc_service", "stable", "canary")
	const calls = 600
	if by := client.calls("grpc_service", calls); by["canary"] < calls*13/100 || by["canary"] > calls*27/100 || by["canary"]+by["stable"] != calls {
		t.Errorf("20 %% of %d calls are %v", calls, by)
	}
	m.Edit(routes(`    - {name: chaos, service: grpc_service, match: [{grpc: {service: mesh.e2e.Echo, method: Unary}}], fault: {abort: {grpc_status: 8, percent: 100}}}
`))
	harness.Eventually(t, "its calls are aborted", 10*time.Second, func() error {
		if a := client.call("grpc_service"); a.Code != codes.ResourceExhausted {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	m.Edit(routes(`    - {name: chaos, service: grpc_service, match: [{grpc: {service: mesh.e2e.Echo, method: Other}}], fault: {abort: {grpc_status: 8, percent: 100}}}
`))
	harness.Eventually(t, "they are aborted no more", 10*time.Second, func() error {
		if a := client.call("grpc_service"); a.Instance != "stable" {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	checkProxyless(t, m, "reports-1")
}
