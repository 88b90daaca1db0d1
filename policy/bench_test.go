package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"datapunk.dev/controlplane/policy"
)

// BenchmarkParse loads the file of a mesh that has something to say of each of
// 10,000 services.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString("mesh:\n  name: m\n  services:\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "    service_%d:\n      protocol: grpc\n      upstreams: [service_%d]\n      timeout: {request: 5s}\n", i, (i+1)%10_000)
	}
	text.WriteString("  circuit_breakers:\n    custom:\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "      service_%d: {max_requests: 100}\n", i)
	}
	files := []policy.File{{Name: "mesh.yaml", Data: []byte(text.String())}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.Parse(files, policy.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
