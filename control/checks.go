package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/xds"
)

const (
	// slowConsul is from when Consul's answers are worth a look, and lateClock from when
	// another machine's clock is: a certificate begins a minute before it is issued.
	slowConsul = 500 * time.Millisecond
	lateClock  = 30 * time.Second
	// endingRoot is how long before the end of the root somebody should know.
	endingRoot = 90 * 24 * time.Hour
	// fewBytes is how much room the data directory should have: the catalog, the mesh
	// files and what proxies refused, each twice while it is written.
	fewBytes = 256 << 20
	// checkConsulTime bounds what is asked of Consul.
	checkConsulTime = 5 * time.Second
)

// checklist is what is found out, in order.
type checklist struct{ all []api.Check }

func (c *checklist) ok(name, format string, args ...any) {
	c.all = append(c.all, api.Check{Name: name, Result: api.OK, Message: fmt.Sprintf(format, args...)})
}

func (c *checklist) bad(result api.CheckResult, name, hint, page, format string, args ...any) {
	c.all = append(c.all, api.Check{Name: name, Result: result, Message: fmt.Sprintf(format, args...), Hint: hint, Page: "docs/" + page})
}

// Checks look at what this control plane needs: its inputs, Consul, the clock, the
// authority, the data directory and the fleet.
func (p *Plane) Checks(ctx context.Context) api.Checks {
	c := &checklist{}
	p.checkReady(c)
	p.checkMesh(c)
	p.checkCatalog(ctx, c)
	p.checkAuthority(c)
	p.checkDisk(c)
	p.checkProxies(c)
	p.checkReplicas(c)
	return api.Checks{Checks: c.all}
}

func (p *Plane) checkReady(c *checklist) {
	is := p.Readiness()
	switch {
	case !is.Ready:
		c.bad(api.Failed, "ready", "it serves nothing until it has what it waits for", "operations.md#when-something-is-wrong", "it waits for %s", strings.Join(is.Waiting, "; "))
	case len(is.Problems) > 0:
		c.bad(api.Warning, "ready", "", "operations.md#when-something-is-wrong", "it is ready, with problems: %s", strings.Join(is.Problems, "; "))
	default:
		c.ok("ready", "it serves configuration")
	}
}

func (p *Plane) checkMesh(c *checklist) {
	page := "operations.md#running"
	p.mu.Lock()
	rejected, hold, pinned, pinFailed, keepErr := p.rejected, p.hold, p.pin, p.pinFailed, p.keepErr
	p.mu.Unlock()
	revision, waves := p.serving().Revision, p.loop.Status().Waves
	switch {
	case rejected != nil:
		c.bad(api.Failed, "mesh file", "controlplane validate -f says all that is wrong with it", page, "revision %s is served, for the file is refused: %s", revision, rejected)
	case pinned != nil:
		c.bad(api.Warning, "mesh file", "controlplane history release serves the file again", page, "revision %s is pinned by %s %s", revision, pinned.By, pinned.forWhom())
	case pinFailed != nil:
		c.bad(api.Failed, "mesh file", "controlplane history release, or pin another revision", page, "revision %s of the file is served: %s", revision, pinFailed)
	case hold != nil:
		c.bad(api.Warning, "mesh file", "controlplane accept -f has it taken at once", page, "revision %s waits: %s", hold.Revision, hold)
	case waves != nil && waves.Why != "":
		c.bad(api.Failed, "mesh file", "mend the line, or controlplane accept --revision "+waves.Revision, "operations.md#waves", "revision %s is served, for %s was taken back: %s", revision, waves.Revision, waves.because())
	case waves != nil:
		c.bad(api.Warning, "mesh file", "controlplane status says how far it is", "operations.md#waves", "revision %s is served to most: %s", revision, waves)
	case keepErr != nil:
		c.bad(api.Warning, "mesh file", "a restart could not go back to it", page, "it is not kept: %s", keepErr)
	default:
		c.ok("mesh file", "revision %s of the file is served", revision)
	}
}

func (p *Plane) checkCatalog(ctx context.Context, c *checklist) {
	is := p.catalogs.Status()
	switch {
	case len(is.Waiting) > 0:
		c.bad(api.Failed, "catalog", "what it had last is served", "operations.md#a-start-without-consul-or-with-another-one", "%s", strings.Join(is.Waiting, "; "))
	case len(is.Held) > 0:
		c.bad(api.Warning, "catalog", "controlplane removals list says what accepting it does", "operations.md#when-an-instance-goes", "removals are held: %s", strings.Join(is.Held, "; "))
	default:
		c.ok("catalog", "it is as its source says")
	}
	t := targetOf(p.Catalog, p.mesh.Load())
	if t.file != "" {
		return
	}
	client, err := t.consul.client(os.LookupEnv, 0)
	if err != nil {
		c.bad(api.Failed, "Consul", "see discovery.consul in the mesh file", "mesh-file.md", "%s", err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, checkConsulTime)
	defer cancel()
	checkConsul(ctx, c, client, p.consulRights(), time.Now)
}

// consulRights are those that the control plane's own token needs.
func (p *Plane) consulRights() []ask {
	rights := []ask{{Resource: "node", Access: "read"}, {Resource: "service", Access: "read"}}
	if p.mesh.Load().Discovery.Consul.RegisterInterval > 0 {
		rights = append(rights, ask{Resource: "service", Access: "write"})
	}
	if p.replicas != nil {
		rights = append(rights, ask{Resource: "session", Access: "write"}, ask{Resource: "key", Access: "write"})
	}
	return rights
}

// checkConsul asks Consul how it is, how late its clock is, and what the token may do.
func checkConsul(ctx context.Context, c *checklist, client *consul.Client, rights []ask, now func() time.Time) {
	began := now()
	answer, err := client.Do(ctx, consul.Request{Path: "/v1/status/leader"})
	if err != nil {
		c.bad(api.Failed, "Consul", "the last good catalog is served meanwhile", "operations.md#a-start-without-consul-or-with-another-one", "%s: %s", client.Address(), err)
		return
	}
	took := now().Sub(began)
	var leader string
	switch err := answer.Decode(&leader); {
	case err != nil || leader == "":
		c.bad(api.Failed, "Consul", "look at Consul's servers: controlplane goes on with what it has", "operations.md#when-something-is-wrong", "%s knows no leader", client.Address())
	case took > slowConsul:
		c.bad(api.Warning, "Consul", "each change of the catalog waits for it", "operations.md#when-something-is-wrong", "%s took %s to answer", client.Address(), took.Round(time.Millisecond))
	default:
		c.ok("Consul", "%s answers in %s, and has the leader %s", client.Address(), took.Round(time.Millisecond), leader)
	}
	if answer.Date.IsZero() {
		return
	}
	if off := answer.Date.Sub(began).Abs(); off > lateClock {
		c.bad(api.Failed, "clock", "have all machines follow one clock: certificates and tokens have a beginning and an end", "operations.md#when-something-is-wrong", "Consul's clock and that of this machine are %s apart", off.Round(time.Second))
	} else {
		c.ok("clock", "it is as that of Consul")
	}
	body, err := json.Marshal(rights)
	if err != nil {
		return // of two words each
	}
	answer, err = client.Do(ctx, consul.Request{Method: "POST", Path: "/v1/internal/acl/authorize", Body: body})
	var given []ask
	if err == nil {
		err = answer.Decode(&given)
	}
	if refused := new(consul.StatusError); errors.As(err, &refused) && strings.Contains(refused.Message, "ACL support disabled") {
		c.ok("Consul's rights", "Consul has no ACLs: whoever reaches it may do all")
		return
	}
	if err != nil || len(given) != len(rights) {
		c.bad(api.Warning, "Consul's rights", "", "security.md#what-is-in-consul", "Consul does not say what the token may do: %v", err)
		return
	}
	var lacking []string
	for i, g := range given {
		if !g.Allow {
			lacking = append(lacking, rights[i].Resource+":"+rights[i].Access)
		}
	}
	if len(lacking) > 0 {
		// A token of some services alone is refused the whole, and may be meant.
		c.bad(api.Warning, "Consul's rights", "give them to the token, or to the services that the mesh has", "security.md#what-is-in-consul", "the token has no %s for all names", strings.Join(lacking, ", no "))
		return
	}
	c.ok("Consul's rights", "the token may do all that is needed")
}

func (p *Plane) checkAuthority(c *checklist) {
	const page = "security.md"
	if p.svids == nil {
		c.bad(api.Warning, "authority", "--xds-plaintext is for tests, and for a mesh on one machine", page, "xDS is plaintext: there is none")
		return
	}
	s := p.svids.Stats()
	switch left := time.Until(s.RootExpires); {
	case left < endingRoot:
		c.bad(api.Failed, "authority", "a new root is trusted by nobody: plan for it", page, "the root ends in %s", left.Truncate(time.Hour))
	case s.Failing > 0:
		c.bad(api.Failed, "authority", "controlplane certs says why", page, "%d certificates could not be renewed", s.Failing)
	case !s.EarliestExpiry.IsZero() && time.Until(s.EarliestExpiry) < p.mesh.Load().MTLS.CertTTL/10:
		c.bad(api.Failed, "authority", "controlplane certs says which", page, "a certificate ends in %s", time.Until(s.EarliestExpiry).Truncate(time.Second))
	default:
		c.ok("authority", "the root ends at %s, and %d proxies have certificates", s.RootExpires.UTC().Format(time.DateOnly), s.Leases)
	}
}

func (p *Plane) checkDisk(c *checklist) {
	if p.Plaintext {
		return // it keeps nothing
	}
	var failures []string
	if why := p.catalogs.NotKept(); why != "" {
		failures = append(failures, why)
	}
	if _, err := p.refusals.failures(); err != nil {
		failures = append(failures, err.Error())
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(p.DataDir, &fs); err != nil {
		failures = append(failures, err.Error())
	}
	free := fs.Bavail * uint64(fs.Bsize)
	switch {
	case len(failures) > 0:
		c.bad(api.Failed, "data directory", "what is not kept is not there after a restart", "operations.md#running", "%s", strings.Join(failures, "; "))
	case free < fewBytes:
		c.bad(api.Warning, "data directory", "make room", "operations.md#running", "%s has %d MB left", p.DataDir, free>>20)
	default:
		c.ok("data directory", "%s has %d MB left", p.DataDir, free>>20)
	}
}

func (p *Plane) checkProxies(c *checklist) {
	const page = "operations.md#when-something-is-wrong"
	var rejecting, lacking []string
	proxies := p.xds.Proxies()
	for _, proxy := range proxies {
		if len(proxy.Missing) > 0 {
			lacking = append(lacking, proxy.Node)
		}
		for _, t := range proxy.Types {
			if t.State == xds.Rejected {
				rejecting = append(rejecting, proxy.Node)
				break
			}
		}
	}
	switch {
	case len(rejecting) > 0:
		c.bad(api.Failed, "proxies", "controlplane status --unhealthy says what and why", page, "%d of %d refuse something: %s", len(rejecting), len(proxies), shorten(strings.Join(rejecting, ", ")))
	case len(lacking) > 0:
		c.bad(api.Warning, "proxies", "controlplane status --unhealthy says what", page, "%d of %d have not all of their listeners: %s", len(lacking), len(proxies), shorten(strings.Join(lacking, ", ")))
	default:
		c.ok("proxies", "%d are connected to this replica, and none refuses anything", len(proxies))
	}
}

func (p *Plane) checkReplicas(c *checklist) {
	holding, problems := p.replicaReport()
	if all := append(holding, problems...); len(all) > 0 {
		c.bad(api.Warning, "replicas", "controlplane status says which", "operations.md#several-replicas", "%s", strings.Join(all, "; "))
	} else if p.replicas != nil {
		c.ok("replicas", "%d serve the same", len(p.Replicas().Members))
	}
}
