package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/analyze"
	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

var errNoSnapshot = errors.New("nothing is served yet: see /readyz")

// variable is one that a mesh file names.
var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)`)

// planOptions are those by which a file is read that somebody sends. Of this process's
// environment it has what the file in force names: what else is there may be a secret,
// and a plan shows what becomes of a value.
func (p *Plane) planOptions() policy.Options {
	named := make(map[string]bool)
	for _, f := range p.mesh.Load().Files {
		for _, found := range variable.FindAllSubmatch(f.Data, -1) {
			named[string(found[1])] = true
		}
	}
	opts := p.MeshOptions
	lookup := opts.LookupEnv
	opts.LookupEnv = func(name string) (string, bool) {
		if lookup == nil || !named[name] {
			return "", false
		}
		return lookup(name)
	}
	return opts
}

// Plan says what a mesh file would change of what the connected fleet is served: of that
// of all replicas, as far as they answer.
func (p *Plane) Plan(ctx context.Context, files []api.File) (api.Plan, error) {
	last := p.loop.Status().Snapshot
	if last == nil {
		return api.Plan{}, errNoSnapshot
	}
	sent := make([]policy.File, len(files))
	for i, f := range files {
		sent[i] = policy.File{Name: f.Name, Data: []byte(f.Content)}
	}
	mesh, err := policy.Parse(sent, p.planOptions())
	if err == nil {
		err = p.accept(mesh)
	}
	if err != nil {
		return api.Plan{}, problemsOf(err)
	}
	in := last.Input
	if in.Fleet, err = p.wholeFleet(ctx, in.Fleet); err != nil {
		return api.Plan{}, err
	}
	if in.Fleet != last.Input.Fleet {
		last = translate.Translate(last, in)
	}
	in.Mesh = mesh
	if targetOf(p.Catalog, mesh).file == "" {
		in.Catalog = in.Catalog.Select(watch.Selection(mesh.Discovery.Consul.Select))
	}
	made, err := plan.Compare(last, translate.Translate(last, in))
	if err != nil {
		return api.Plan{}, err
	}
	is := PlanOf(made)
	inForce := p.mesh.Load()
	if m := p.insteadOfEdit(); m != nil {
		inForce = m
	}
	if h := policy.Judge(inForce, mesh, p.deselects(inForce, mesh)...); h != nil && !p.revisions.Meant(h.Revision) {
		is.Waits = h.String()
	}
	is.Warnings = append(problems(mesh.Warnings), problems(analyze.Unselected(mesh, in.Catalog))...)
	return is, nil
}

// wholeFleet is the fleet of this replica with that of the others.
func (p *Plane) wholeFleet(ctx context.Context, own *resource.Fleet) (*resource.Fleet, error) {
	if p.replicas == nil {
		return own, nil
	}
	fleet, err := p.Fleet(ctx)
	if err != nil {
		return nil, err
	}
	profiles := make([]resource.Profile, 0, len(fleet.Proxies))
	for _, proxy := range fleet.Proxies {
		profiles = append(profiles, proxy.Profile)
	}
	return own.Update(profiles, nil), nil
}

// PlanOf is a plan in the words of the API.
func PlanOf(p *plan.Plan) api.Plan {
	is := api.Plan{
		From: p.From, To: p.To, Held: p.Held, Proxies: []api.ProxyChange{}, Resources: []api.ResourceChange{},
		Drains: []api.Drain{}, Edges: []api.EdgeChange{},
	}
	for _, c := range p.Proxies {
		is.Proxies = append(is.Proxies, api.ProxyChange(c))
	}
	for _, r := range p.Resources {
		one := api.ResourceChange{Type: r.Type, Name: r.Name, What: string(r.What), Proxies: r.Proxies, Source: r.Source, Uncompared: r.Uncompared}
		for _, f := range r.Fields {
			one.Fields = append(one.Fields, api.FieldChange(f))
		}
		is.Resources = append(is.Resources, one)
	}
	for _, d := range p.Drains {
		is.Drains = append(is.Drains, api.Drain(d))
	}
	for _, e := range p.Edges {
		is.Edges = append(is.Edges, api.EdgeChange{Callee: e.Callee, From: e.From.String(), To: e.To.String(), Callers: e.Callers})
	}
	return is
}

// problemsOf is why a mesh file that somebody sent is none that can be served.
func problemsOf(err error) error {
	e := &api.Error{Message: err.Error(), Reason: api.Invalid}
	var found yamlfile.Problems
	if errors.As(err, &found) {
		e.Message = fmt.Sprintf("the mesh file has %d errors", len(found))
		e.Problems = problems(found)
	}
	return e
}

func problems(list []yamlfile.Problem) []api.Problem {
	var all []api.Problem
	for _, p := range list {
		all = append(all, api.Problem{
			Code: string(p.Code), Severity: string(codes.SeverityOf(string(p.Code))), Message: p.Message, Hint: p.Hint,
			File: p.Source.File, Line: p.Source.Line, Column: p.Source.Column, Key: p.Key, Excerpt: p.Excerpt, Width: p.Width,
		})
	}
	return all
}

// Findings are what is likely a mistake in the mesh file in force, beside the catalog and
// the fleet.
func (p *Plane) Findings() (api.Findings, error) {
	last := p.loop.Status().Snapshot
	if last == nil {
		return api.Findings{}, errNoSnapshot
	}
	in := last.Input
	found, err := analyze.Mesh(in.Mesh, in.Catalog)
	if err != nil {
		return api.Findings{}, err
	}
	is := api.Findings{Findings: append(append([]api.Problem{}, problems(in.Mesh.Warnings)...), problems(found)...)}
	return api.Findings{Findings: append(is.Findings, p.fleetFindings()...)}, nil
}

// codeMetadata is that of what proxies lack.
const codeMetadata = "MC3020"

// fleetFindings are what proxies lack for want of metadata, each thing once for a
// service.
func (p *Plane) fleetFindings() []api.Problem {
	type lack struct{ service, what string }
	nodes := make(map[lack][]string)
	for _, proxy := range p.xds.Proxies() {
		for _, what := range proxy.Missing {
			l := lack{proxy.Service, what}
			nodes[l] = append(nodes[l], proxy.Node)
		}
	}
	var all []api.Problem
	for _, l := range slices.SortedFunc(maps.Keys(nodes), func(a, b lack) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.what, b.what))
	}) {
		all = append(all, api.Problem{
			Code: codeMetadata, Severity: string(codes.Warning), Hint: "see controlplane bootstrap --help",
			Message: fmt.Sprintf("service %s: %s (%d proxies, %s for one)", l.service, l.what, len(nodes[l]), nodes[l][0]),
		})
	}
	return all
}
