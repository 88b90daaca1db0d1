package translate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// benchService has ten instances; the last one's weight tells two states apart.
func benchService(i int, weight uint32) *watch.Service {
	s := &watch.Service{Name: fmt.Sprintf("service-%05d", i)}
	for j := range 10 {
		s.Instances = append(s.Instances, &watch.Instance{
			ID: fmt.Sprint(j), Address: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}),
			Port: 8080, MeshPort: 15008, Weight: 1, Zone: string(rune('a' + j%3)),
		})
	}
	s.Instances[9].Weight = weight
	return s
}

func benchCatalog(services int) *watch.Catalog {
	var all []*watch.Service
	for i := range services {
		all = append(all, benchService(i, 1))
	}
	return watch.NewCatalog().Update(all, nil)
}

// benchFile is a mesh with everything on. Service 0 has an override of its own.
func benchFile(attempts int) string {
	var upstreams []string
	for i := range 5 {
		upstreams = append(upstreams, fmt.Sprintf("service-%05d", i))
	}
	return fmt.Sprintf(`mesh:
  name: bench
  load_balancing: {policy: least_request, health_checks: {timeout: 5s, interval: 10s, unhealthy_threshold: 3, healthy_threshold: 2}}
  security:
    mtls: {enabled: true, trust_domain: bench}
    authorization:
      enabled: true
      policies: [{name: all, action: ALLOW, principals: ["spiffe://bench/*"]}]
  services:
    service-00000: {retry: {attempts: %d}}
    service-00001: {upstreams: [%s]}
`, attempts, strings.Join(upstreams, ", "))
}

// benchFleet is n proxies, each of a service of its own.
func benchFleet(n int) *resource.Fleet {
	var profiles []resource.Profile
	for i := range n {
		profiles = append(profiles, resource.Profile{
			Service: fmt.Sprintf("service-%05d", i), Address: fmt.Sprintf("10.%d.%d.0", i>>8, i&255),
			AppPort: 8080, MeshPort: 15008, OutboundPort: 15001, MetricsPort: 9102,
		})
	}
	return resource.NewFleet(profiles...)
}

func benchInput(b *testing.B, services, proxies int) Input {
	return Input{Mesh: parse(b, benchFile(3)), Catalog: benchCatalog(services), Fleet: benchFleet(proxies), Roots: testRoots(b)}
}

// BenchmarkFull translates all of a mesh whose services have ten instances each.
func BenchmarkFull(b *testing.B) {
	for _, services := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			in := benchInput(b, services, 1)
			b.ReportAllocs()
			for b.Loop() {
				Translate(nil, in)
			}
		})
	}
}

// BenchmarkEndpoint changes one instance of one service.
func BenchmarkEndpoint(b *testing.B) {
	for _, size := range [][2]int{{100, 100}, {10_000, 1}, {10_000, 1000}, {1000, 20_000}} {
		b.Run(fmt.Sprintf("services=%d/profiles=%d", size[0], size[1]), func(b *testing.B) {
			in := benchInput(b, size[0], size[1])
			last := Translate(nil, in)
			states := [2]*watch.Service{benchService(50, 1), benchService(50, 2)}
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				in.Catalog = in.Catalog.Update(states[i%2:i%2+1], nil)
				last = Translate(last, in)
			}
			if len(last.ChangedScopes) == 0 {
				b.Fatal("nothing changed")
			}
		})
	}
}

// BenchmarkPolicyEdit changes the retries of one service.
func BenchmarkPolicyEdit(b *testing.B) {
	for _, size := range [][2]int{{100, 100}, {10_000, 1}, {10_000, 1000}, {1000, 20_000}} {
		b.Run(fmt.Sprintf("services=%d/profiles=%d", size[0], size[1]), func(b *testing.B) {
			in := benchInput(b, size[0], size[1])
			last := Translate(nil, in)
			files := []string{benchFile(3), benchFile(4)}
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				b.StopTimer()
				in.Mesh = parse(b, files[i%2])
				b.StartTimer()
				last = Translate(last, in)
			}
			if len(last.ChangedScopes) == 0 {
				b.Fatal("nothing changed")
			}
		})
	}
}

// BenchmarkJoin has one more proxy connect, and leave.
func BenchmarkJoin(b *testing.B) {
	in := benchInput(b, 10_000, 1000)
	last := Translate(nil, in)
	one := []resource.Profile{{Service: "newcomer", AppPort: 8080, MeshPort: 15006, OutboundPort: 15001}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			in.Fleet = in.Fleet.Update(one, nil)
		} else {
			in.Fleet = in.Fleet.Update(nil, one)
		}
		last = Translate(last, in)
	}
}
