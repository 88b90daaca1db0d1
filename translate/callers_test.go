package translate

import (
	"slices"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// admittedTo are the SANs by which the proxies of a TCP service admit callers.
func admittedTo(t *testing.T, s *Snapshot, profile resource.Profile) []string {
	t.Helper()
	var secret tlsv3.Secret
	if err := proto.Unmarshal(sightOf(s, profile).Sets[resource.Secret].Get(resource.SecretCallers(profile.Service)).Body, &secret); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range secret.GetValidationContext().GetMatchTypedSubjectAltNames() {
		all = append(all, m.Matcher.GetExact()+m.Matcher.GetPrefix())
	}
	slices.Sort(all)
	return all
}

// A caller need not be called by anybody, and so need not be registered: what
// lists callers, because a policy excepts one, lists those that run too.
func TestTCPAdmitsACallerThatRunsAndIsRegisteredNowhere(t *testing.T) {
	db := resource.Profile{Service: "db", AppPort: 5432, MeshPort: 20000}
	batch := resource.Profile{Service: "batch", OutboundPort: 15001}
	file := func(policies string) *policy.Mesh {
		return parse(t, "mesh:\n  name: td\n  services: {db: {protocol: tcp}, web: {}}\n  security: {authorization: {policies: ["+policies+"]}}\n")
	}
	const everybody = `{name: all, action: ALLOW, principals: ["spiffe://td/*"]}`
	const notWeb = `{name: no-web, action: DENY, sources: [web]}`
	in := Input{Mesh: file(everybody + "," + notWeb), Catalog: watch.NewCatalog(), Fleet: resource.NewFleet(db), Roots: testRoots(t)}

	s := Translate(nil, in)
	without := []string{"spiffe://td/db"}
	if got := admittedTo(t, s, db); !slices.Equal(got, without) {
		t.Errorf("admitted: %v, want %v", got, without)
	}
	in.Fleet = in.Fleet.Update([]resource.Profile{batch}, nil)
	s = Translate(s, in)
	if got, want := admittedTo(t, s, db), []string{"spiffe://td/batch", "spiffe://td/db"}; !slices.Equal(got, want) {
		t.Errorf("a caller connected; admitted: %v, want %v", got, want)
	}
	second := batch
	second.OutboundPort = 15002
	in.Fleet = in.Fleet.Update([]resource.Profile{second}, nil)
	if s = Translate(s, in); slices.ContainsFunc(s.ChangedViews, func(v *resource.View) bool { return v.Profile == db }) {
		t.Error("a second proxy of the caller changes whom db admits")
	}
	in.Fleet = in.Fleet.Update(nil, []resource.Profile{batch, second})
	s = Translate(s, in)
	if got := admittedTo(t, s, db); !slices.Equal(got, without) {
		t.Errorf("the caller left; admitted: %v, want %v", got, without)
	}

	for policies, want := range map[string][]string{
		everybody: {"spiffe://td/"},
		// A DENY of others excepts nobody of these.
		`{name: some, action: ALLOW, principals: ["spiffe://td/ops/*"], sources: [x]}, ` + notWeb:     {"spiffe://td/ops/", "spiffe://td/x"},
		everybody + `, {name: strangers, action: DENY, not_principals: ["spiffe://td/*"]}`:            {"spiffe://td/"},
		`{name: one, action: ALLOW, principals: ["spiffe://td/job/7"], not_sources: [web]}`:           {"spiffe://td/job/7"},
		`{name: two, action: ALLOW, sources: [web, x]}, ` + notWeb:                                    {"spiffe://td/x"},
		`{name: none, action: ALLOW, sources: [web]}, ` + notWeb:                                      {nobody},
		`{name: but, action: ALLOW, principals: ["spiffe://td/*"], not_sources: [web]}`:               {"spiffe://td/db"},
		everybody + `, {name: elsewhere, action: DENY, sources: [web], destinations: [web]}`:          {"spiffe://td/"},
		`{name: job, action: ALLOW, principals: ["spiffe://td/job/7"]}, ` + everybody + `, ` + notWeb: {"spiffe://td/db", "spiffe://td/job/7"},
	} {
		in.Mesh = file(policies)
		if got := admittedTo(t, Translate(nil, in), db); !slices.Equal(got, want) {
			t.Errorf("%s:\nadmitted: %v, want %v", policies, got, want)
		}
	}
}
