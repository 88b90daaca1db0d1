package register

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"datapunk.dev/controlplane/consul"
	"datapunk.dev/controlplane/watch"
)

// agentServices are the instances that Consul's agent checks. They are services of
// that agent, so that their checks go on while no replica runs; the agent has no
// compare and set, so one replica registers them, and whose an entry is says its meta.
//
// Replicas may call one agent or several. The one that looks after what is shared
// registers, but where a live agent has the entry already as it should be. Any other
// takes its own copy away once that one's is in the catalog.
type agentServices struct {
	store *consulStore
	log   *slog.Logger

	wakeup chan struct{} // something has changed

	mu      sync.Mutex
	told    bool                // what is wanted is known
	wanted  map[string]Instance // by id, folded
	up      bool
	leads   bool
	known   []Registration // as of the last look
	denied  int
	trouble string

	made  map[string]string // what was registered by this process, by id
	clean bool              // nothing of ours is there, and nothing is wanted
}

func newAgentServices(store *consulStore, log *slog.Logger) *agentServices {
	return &agentServices{store: store, log: log, wakeup: make(chan struct{}, 1), made: make(map[string]string)}
}

// set changes what the next look goes by, and has it come at once if that differs.
func (a *agentServices) set(change func() (differs bool)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !change() {
		return
	}
	a.clean = false
	select {
	case a.wakeup <- struct{}{}:
	default:
	}
}

func (a *agentServices) keep(wanted []Instance) {
	byID := make(map[string]Instance, len(wanted))
	for i := range wanted {
		byID[strings.ToLower(wanted[i].ID)] = wanted[i]
	}
	a.set(func() bool {
		differs := !a.told || !maps.EqualFunc(a.wanted, byID, func(x, y Instance) bool { return definition(&x) == definition(&y) })
		a.told, a.wanted = true, byID
		return differs
	})
}

func (a *agentServices) session(up, leads bool) {
	a.set(func() bool {
		differs := a.up != up || a.leads != leads
		a.up, a.leads = up, leads
		return differs
	})
}

// run looks each interval, and when something has changed, until ctx ends.
func (a *agentServices) run(ctx context.Context, interval func() time.Duration) {
	for ctx.Err() == nil {
		a.look(ctx)
		timer := time.NewTimer(interval())
		select {
		case <-ctx.Done():
		case <-a.wakeup:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// agentService is one as its agent lists it.
type agentService struct {
	ID, Service, Address string
	Port                 int
	Tags                 []string
	Meta                 map[string]string
}

// agentEntry is one of our instances on an agent's node, as the catalog has it.
type agentEntry struct {
	node, owner string
	right       bool // as it should be, its check too
	live        bool // the agent is
}

// look brings about what is wanted, as far as that is this replica's to do.
func (a *agentServices) look(ctx context.Context) {
	a.mu.Lock()
	wanted, leads, idle := a.wanted, a.leads, !a.told || !a.up || a.clean
	a.mu.Unlock()
	if idle {
		return
	}
	known, err := a.bringAbout(ctx, wanted, leads)
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		if a.trouble == "" {
			a.log.Warn("the instances that Consul's agent checks could not be looked at", "err", err)
		}
		a.trouble = "the instances that Consul's agent checks could not be looked at: " + err.Error()
		return
	}
	for i := range known {
		was := slices.IndexFunc(a.known, func(k Registration) bool { return k.ID == known[i].ID && k.State == known[i].State })
		if was >= 0 {
			known[i].Since = a.known[was].Since
		}
	}
	a.trouble, a.known, a.denied = "", known, 0
	for i := range known {
		if known[i].denied {
			a.denied++
		}
	}
	a.clean = len(known) == 0 && len(a.wanted) == 0
}

// bringAbout makes one look, and returns how far each instance is.
func (a *agentServices) bringAbout(ctx context.Context, wanted map[string]Instance, leads bool) ([]Registration, error) {
	var at map[string]agentService
	answer, err := a.store.client.Do(ctx, consul.Request{Path: "/v1/agent/services"})
	if err == nil {
		err = answer.Decode(&at)
	}
	if err != nil {
		return nil, err
	}
	here := make(map[string]agentService, len(at))
	for id, s := range at {
		here[strings.ToLower(id)] = s
	}
	alive, err := a.store.alive(ctx)
	if err != nil {
		return nil, err
	}
	var known []Registration
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		i := wanted[id]
		entries, foreign, err := a.entries(ctx, &i)
		if err != nil {
			return nil, err
		}
		have, ok := here[id]
		if ok && have.Meta[watch.MetaManagedBy] != a.store.managedBy() {
			ok, foreign = false, "registered by others: "+have.ID+" at the agent"
		}
		known = append(known, a.one(ctx, &i, &have, ok, entries, foreign, alive, leads))
	}
	for id, s := range here {
		_, still := wanted[id]
		if _, other := alive[s.Meta[watch.MetaOwner]]; still || s.Meta[watch.MetaManagedBy] != a.store.managedBy() ||
			other && !leads && s.Meta[watch.MetaOwner] != a.store.self {
			continue
		}
		if err := a.deregister(ctx, s.ID); err != nil {
			known = append(known, Registration{ID: s.ID, Service: s.Service, Address: s.Address, Port: uint16(s.Port), State: Delete, Since: time.Now(), Reason: err.Error()})
		}
	}
	return known, nil
}

// entries are those of an instance that the catalog has on nodes of agents, and
// whose the place is if it is not ours.
func (a *agentServices) entries(ctx context.Context, i *Instance) (entries []agentEntry, foreign string, err error) {
	answer, err := a.store.client.Do(ctx, consul.Request{Path: "/v1/health/service/" + url.PathEscape(i.Service)})
	if err != nil {
		return nil, "", err
	}
	var all []apiEntry
	if err := answer.Decode(&all); err != nil {
		return nil, "", err
	}
	for _, e := range all {
		switch {
		case e.Service.Meta[watch.MetaManagedBy] != a.store.managedBy():
			if e.Service.Address == i.Address && e.Service.Port == int(i.Port) {
				foreign = fmt.Sprintf("registered by others: %s on node %s", e.Service.ID, e.Node.Node)
			}
		case e.Node.Meta[watch.MetaManagedBy] == a.store.managedBy(): // not an agent's
		case strings.EqualFold(e.Service.ID, i.ID):
			entry := agentEntry{node: e.Node.Node, owner: e.Service.Meta[watch.MetaOwner], live: true}
			for _, c := range e.Checks {
				switch c.CheckID {
				case "serfHealth":
					entry.live = c.Status == string(Passing)
				case agentCheck(i.ID):
					entry.right = c.Notes == i.Check.notes()
				}
			}
			entry.right = entry.right && sameService(i, &agentService{
				Service: e.Service.Service, Address: e.Service.Address, Port: e.Service.Port, Tags: e.Service.Tags, Meta: e.Service.Meta,
			})
			entries = append(entries, entry)
		}
	}
	return entries, foreign, nil
}

// one brings about what is wanted of one instance. Have is what this replica's agent
// has of it, if it has.
func (a *agentServices) one(
	ctx context.Context, i *Instance, have *agentService, has bool, entries []agentEntry, foreign string, alive map[string]struct{}, leads bool,
) Registration {
	reg := Registration{ID: i.ID, Service: i.Service, Address: i.Address, Port: i.Port, MeshPort: i.Meta[watch.MetaMeshPort], State: Held, Since: time.Now()}
	if has {
		reg.Owner = have.Meta[watch.MetaOwner]
	}
	fail := func(s State, err error) Registration {
		var status *consul.StatusError
		reg.State, reg.Reason = s, err.Error()
		reg.denied = errors.As(err, &status) && status.Code == http.StatusForbidden
		return reg
	}
	_, ownerLives := alive[reg.Owner]
	mine := has && (reg.Owner == a.store.self || !ownerLives)
	if foreign != "" {
		reg.State, reg.Reason = Foreign, foreign
		if mine || has && leads {
			if err := a.deregister(ctx, have.ID); err != nil {
				return fail(Delete, err)
			}
		}
		return reg
	}
	for _, e := range entries {
		_, lives := alive[e.owner]
		switch {
		case leads && !has && e.right && e.live:
			reg.Owner, reg.Reason = e.owner, "at the agent of node "+e.node
			return reg
		case !leads && mine && lives && e.owner != reg.Owner:
			if err := a.deregister(ctx, have.ID); err != nil {
				return fail(Delete, err)
			}
			reg.Owner, reg.Reason = e.owner, "at the agent of node "+e.node
			return reg
		}
	}
	switch {
	case leads && (!has || reg.Owner != a.store.self || !sameService(i, have) || a.made[i.ID] != definition(i)):
		if err := a.register(ctx, i); err != nil {
			return fail(Claim, err)
		}
		a.made[i.ID], reg.Owner = definition(i), a.store.self
	case !has && len(entries) == 0:
		reg.State, reg.Reason = Claim, "another replica registers it"
	case !has:
		reg.Owner, reg.Reason = entries[0].owner, "at the agent of node "+entries[0].node
	}
	return reg
}

func (a *agentServices) register(ctx context.Context, i *Instance) error {
	meta := i.entry().meta
	meta[watch.MetaManagedBy], meta[watch.MetaOwner] = a.store.managedBy(), a.store.self
	check := map[string]any{
		"CheckID": agentCheck(i.ID), "Name": "application", "Notes": i.Check.notes(),
		"Interval": i.Check.Interval.String(), "Timeout": i.Check.Timeout.String(),
	}
	switch {
	case i.Check.HTTP != "":
		check["HTTP"], check["DisableRedirects"] = i.Check.HTTP, true
	case i.Check.TCP != "":
		check["TCP"] = i.Check.TCP
	default:
		check["GRPC"] = i.Check.GRPC
	}
	body := map[string]any{"ID": i.ID, "Name": i.Service, "Address": i.Address, "Port": i.Port, "Tags": i.Tags, "Meta": meta, "Check": check}
	err := a.store.put(ctx, "/v1/agent/service/register", url.Values{"replace-existing-checks": {"true"}}, body, nil)
	if err != nil {
		return fmt.Errorf("at the agent: %w", err)
	}
	a.log.Info("registered at the Consul agent, which checks it", "id", i.ID, "service", i.Service)
	return nil
}

func (a *agentServices) deregister(ctx context.Context, id string) error {
	delete(a.made, id)
	if err := a.store.put(ctx, "/v1/agent/service/deregister/"+url.PathEscape(id), nil, nil, nil); err != nil {
		return fmt.Errorf("at the agent: %w", err)
	}
	a.log.Info("deregistered at the Consul agent", "id", id)
	return nil
}

// list returns how far each instance is, and why they could not be looked at.
func (a *agentServices) list() (known []Registration, denied int, trouble string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.known), a.denied, a.trouble
}

func agentCheck(id string) string { return id + ":application" }

// notes say what is checked: the catalog has nothing else that does.
func (c *Check) notes() string {
	return fmt.Sprintf("%s%s%s each %s, within %s", c.HTTP, c.TCP, c.GRPC, c.Interval, c.Timeout)
}

// definition is all that is wanted of an instance.
func definition(i *Instance) string {
	text, err := json.Marshal(i)
	if err != nil {
		panic(err) // texts and numbers
	}
	return string(text)
}

// sameService reports whether an agent's service is as wanted, but for its check.
func sameService(i *Instance, s *agentService) bool {
	meta := maps.Clone(s.Meta)
	for _, key := range []string{watch.MetaOwner, watch.MetaManagedBy} {
		delete(meta, key)
	}
	e := i.entry()
	return s.Service == i.Service && s.Address == i.Address && s.Port == int(i.Port) && slices.Equal(s.Tags, i.Tags) && maps.Equal(meta, e.meta)
}
