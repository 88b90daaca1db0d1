// Package e2e tests the control plane with real Envoys, a real Consul and a
// real Prometheus. Each test is one sentence about the mesh, and its name says
// it; files are by subject.
package e2e

import (
	"os"
	"testing"

	"datapunk.dev/controlplane/e2e/harness"
)

func TestMain(m *testing.M) {
	if os.Getenv(asGRPCClient) != "" {
		os.Exit(grpcClient())
	}
	os.Exit(harness.Main(m))
}
