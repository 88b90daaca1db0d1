package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/e2e/traffic"
	"datapunk.dev/controlplane/internal/tool"
)

// effectTime is how long a change may take to be seen. Most take milliseconds.
const effectTime = 15 * time.Second

// step is one of the script. do returns an error if what it promises was not
// seen to happen.
type step struct {
	text string
	do   func(context.Context) error
}

// script runs every step, also after one that failed, and returns what failed.
func (d *demo) script(ctx context.Context) error {
	where := "Consul"
	if d.mesh.Consul == nil {
		where = "the catalog"
	}
	steps := []step{
		{"An instance that is critical in " + where + " takes no more traffic", d.critical},
		{"The control plane is asked: status, what becomes of a call, what an edit would do", d.ask},
		{"An edit of the mesh file takes effect, without a restart", d.edit},
		{"A bad edit is refused with its line, and the mesh goes on", d.badEdit},
		{"A DENY in the file turns the next request into 403", d.deny},
		{"A canary by hand: two versions, a header for testers, 5 % and then half, a mirror", d.canary},
		{"A machine leaves and comes back, and no request fails", d.leave},
		{"With cert_rotation at 20s the certificates rotate under load", d.rotate},
	}
	d.screen.title("The mesh at work, under a load of 100 requests a second")
	d.load.Take()
	seen := 0
	var errs []error
	for i, s := range steps {
		d.screen.step(i+1, len(steps), s.text)
		err := s.do(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if r := d.taken(); err == nil {
			err = failures(r)
		}
		if err != nil {
			d.screen.missed(err)
			errs = append(errs, fmt.Errorf("step %d: %s", i+1, strings.ToLower(s.text[:1])+s.text[1:]))
			continue
		}
		seen++
	}
	warned := d.warnings()
	for _, line := range warned {
		errs = append(errs, errors.New("an Envoy warned: "+line))
	}
	d.screen.title("In the end")
	d.screen.mark(mood(seen == len(steps)), "•", fmt.Sprintf("%d of %d steps were seen to happen", seen, len(steps)))
	d.screen.mark(mood(d.failed == 0), "•", fmt.Sprintf("%d requests under load, %d failed", d.requests, d.failed))
	d.screen.mark(mood(len(warned) == 0), "•", fmt.Sprintf("%d warnings of an Envoy about its configuration", len(warned)))
	return errors.Join(errs...)
}

// taken returns what came of the load since the last time, and counts it.
func (d *demo) taken() traffic.Result {
	r := d.load.Take()
	d.requests, d.failed = d.requests+r.Requests, d.failed+r.Failed()
	return r
}

// warnings returns what the Envoys have against their configuration.
func (d *demo) warnings() []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(d.machines)) {
		for _, line := range d.machines[id].Warnings() {
			out = append(out, id+": "+line)
		}
	}
	return out
}

func mood(good bool) string {
	if good {
		return green
	}
	return red
}

// critical takes lake-2 out of rotation and brings it back.
func (d *demo) critical(ctx context.Context) error {
	at := time.Now()
	lake2 := d.machines["lake-2"].Instance()
	if err := d.mesh.Judge(lake2, run.Critical); err != nil {
		return err
	}
	if err := d.untilServedBy(ctx, "lake-1"); err != nil {
		return err
	}
	d.screen.saw("lake-2 was made critical, and within %s lake-1 alone served", seconds(time.Since(at)))
	d.taken()
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	r := d.taken()
	if r.Instances["lake-2"] > 0 || r.Requests == 0 {
		return fmt.Errorf("lake-2 still serves: %s", r)
	}
	d.screen.saw("%d requests later: all by lake-1, %d failed", r.Requests, r.Failed())
	at = time.Now()
	if err := d.mesh.Judge(lake2, run.Passing); err != nil {
		return err
	}
	if err := d.untilServedBy(ctx, "lake-1", "lake-2"); err != nil {
		return err
	}
	d.screen.saw("made passing again, it was back within %s", seconds(time.Since(at)))
	return failures(r)
}

// untilServedBy waits until a row of requests is served by exactly these.
func (d *demo) untilServedBy(ctx context.Context, ids ...string) error {
	return tool.Until(ctx, fmt.Sprintf("lake_service is served by %v alone", ids), effectTime, func() error {
		r := traffic.Load{Addr: d.nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 20, Concurrency: 1}.Do(ctx)
		if err := failures(r); err != nil {
			return err
		}
		if got := slices.Sorted(maps.Keys(r.Instances)); !slices.Equal(got, ids) {
			return fmt.Errorf("served by %v", got)
		}
		return nil
	})
}

// edit raises a limit of lake_service and looks what moved.
func (d *demo) edit(ctx context.Context) error {
	before, err := d.nexus.Envoy.ConfigDump()
	if err != nil {
		return err
	}
	pid := d.mesh.Plane.Pid()
	at := time.Now()
	undo, err := d.change("max_connections: 2048", "max_connections: 4096")
	if err != nil {
		return err
	}
	const limit = "circuit_breakers.thresholds.0.max_connections"
	var after *run.Dump
	has := func(want string) error {
		return tool.Until(ctx, "the Envoy of nexus has the limit "+want, effectTime, func() error {
			var err error
			if after, err = d.nexus.Envoy.ConfigDump(); err != nil {
				return err
			}
			c := after.Get("cluster", "lake_service")
			if c == nil {
				return errors.New("it has no cluster lake_service")
			}
			if got := fmt.Sprint(c.Field(limit)); got != want {
				return fmt.Errorf("max_connections is %s", got)
			}
			return nil
		})
	}
	if err := has("4096"); err != nil {
		return err
	}
	d.screen.saw("circuit_breakers.custom.lake_service.max_connections: 2048 → 4096, in nexus's Envoy within %s", seconds(time.Since(at)))
	moved := changed(before.Versions(), after.Versions())
	if !slices.Equal(moved, []string{"cluster lake_service"}) {
		return fmt.Errorf("what moved is %q, not the cluster lake_service alone", moved)
	}
	if d.mesh.Plane.Pid() != pid || !d.mesh.Plane.Running() {
		return errors.New("the control plane was restarted")
	}
	d.screen.saw("of %d resources one has a new version: the cluster lake_service", len(after.Versions()))
	if err := undo(); err != nil {
		return err
	}
	return has("2048")
}

// badEdit writes a key that there is not.
func (d *demo) badEdit(ctx context.Context) error {
	before, err := d.nexus.Envoy.ConfigDump()
	if err != nil {
		return err
	}
	mark := d.mesh.Plane.Log.Len()
	undo, err := d.change("max_connections: 2048", "max_conections: 4096")
	if err != nil {
		return err
	}
	line := d.lineOf("max_conections")
	where := fmt.Sprintf("mesh.yaml:%d", line)
	err = tool.Until(ctx, "the control plane names "+where+" in its log", effectTime, func() error {
		if log := d.mesh.Plane.Log.Since(mark); !strings.Contains(log, where) {
			return fmt.Errorf("it says %q", log)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out, err := d.mesh.CLI(ctx, "validate", "-f", d.meshFile)
	if err != nil {
		return err
	}
	if out.Code != 1 || !strings.Contains(out.Stderr, where) {
		return fmt.Errorf("validate: exit code %d: %s", out.Code, out.Stderr)
	}
	d.screen.saw("refused; `controlplane validate` says the same as the log:")
	d.screen.note("%s", strings.TrimRight(strings.ReplaceAll(out.Stderr, d.dir+string(os.PathSeparator), ""), "\n"))
	r := traffic.Load{Addr: d.nexus.Outbound(), Request: traffic.Request{Host: "lake_service"}, Requests: 100}.Do(ctx)
	if err := failures(r); err != nil {
		return err
	}
	after, err := d.nexus.Envoy.ConfigDump()
	if err != nil {
		return err
	}
	if moved := changed(before.Versions(), after.Versions()); len(moved) > 0 {
		return fmt.Errorf("these moved: %q", moved)
	}
	d.screen.saw("%d requests later: none failed, no resource moved", r.Requests)
	return undo()
}

// lineOf returns the line of the mesh file that has a text.
func (d *demo) lineOf(text string) int {
	content, err := os.ReadFile(d.meshFile)
	if err != nil {
		return 0
	}
	before, _, found := strings.Cut(string(content), text)
	if !found {
		return 0
	}
	return strings.Count(before, "\n") + 1
}

// denyAdmin is the entry that the step adds. It stands before another one: a
// file that ends where the last one went on may be half written, and is not
// taken without `controlplane accept`.
const denyAdmin = `- name: no-admin
          action: DENY
          destinations: [lake_service]
          paths: ["/admin*"]
        `

// deny forbids a path, over a connection that is kept.
func (d *demo) deny(ctx context.Context) error {
	resp, err := d.client.Get(ctx, "lake_service", "/admin")
	if err != nil {
		return err
	}
	if resp.Status != 200 {
		return fmt.Errorf("GET /admin before the edit: %s", resp)
	}
	d.screen.saw("GET /admin: 200")
	dials := d.client.Dials()
	const entry = `- name: "service-to-service"`
	at := time.Now()
	undo, err := d.change(entry, denyAdmin+entry)
	if err != nil {
		return err
	}
	d.screen.note("added to the file, for lake_service: action DENY, paths [\"/admin*\"]")
	answers := func(status int) error {
		return tool.Until(ctx, fmt.Sprintf("GET /admin is %d", status), effectTime, func() error {
			resp, err = d.client.Get(ctx, "lake_service", "/admin")
			if err == nil && resp.Status != status {
				err = errors.New(resp.String())
			}
			return err
		})
	}
	if err := answers(403); err != nil {
		return err
	}
	d.screen.saw("GET /admin: 403, %q, within %s of the edit", strings.TrimSpace(resp.Body), seconds(time.Since(at)))
	sentence, err := d.whyOf(ctx, 2, "--path", "/admin")
	if err != nil {
		return err
	}
	d.screen.saw("`controlplane why nexus lake_service --path /admin`:")
	d.screen.note("%s", sentence)
	if !strings.Contains(sentence, "policy no-admin denies it") {
		return fmt.Errorf("why says %q", sentence)
	}
	if resp, err = d.client.Get(ctx, "lake_service", "/"); err != nil || resp.Status != 200 {
		return fmt.Errorf("GET / is denied too: %s, %w", resp, err)
	}
	if d.client.Dials() != dials {
		return errors.New("the connection of the app was closed")
	}
	d.screen.saw("GET /: 200, over the same connection as before")
	if err := undo(); err != nil {
		return err
	}
	d.screen.note("taken out again: an edit that opens waits until the file has rested for 5 s")
	return answers(200)
}

// leave ends the sidecar of lake-2 as `systemctl stop` does, and starts it again.
func (d *demo) leave(ctx context.Context) error {
	lake2 := d.machines["lake-2"]
	at := time.Now()
	code, err := lake2.Leave(2 * effectTime)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the sidecar of lake-2 ended with %d", code)
	}
	took := time.Since(at)
	r := d.taken()
	if err := failures(r); err != nil {
		return err
	}
	d.screen.saw("its sidecar ended within %s of SIGTERM: %d requests, %d failed", seconds(took), r.Requests, r.Failed())
	if err := d.untilServedBy(ctx, "lake-1"); err != nil {
		return err
	}
	at = time.Now()
	if err := lake2.Start(); err != nil {
		return err
	}
	if err := d.untilServedBy(ctx, "lake-1", "lake-2"); err != nil {
		return err
	}
	d.screen.saw("started again, the same node served within %s, with nothing registered by hand", seconds(time.Since(at)))
	return nil
}

// rotate makes certificates live for seconds.
func (d *demo) rotate(ctx context.Context) error {
	before, err := d.serials()
	if err != nil {
		return err
	}
	dump, err := d.nexus.Envoy.ConfigDump()
	if err != nil {
		return err
	}
	at := time.Now()
	d.taken()
	undo, err := d.change("cert_rotation: 24h", "cert_rotation: 20s")
	if err != nil {
		return err
	}
	d.screen.note("every proxy gets its next one at a moment of its own, within 20 s …")
	var after map[string]run.Certificate
	err = tool.Until(ctx, "every Envoy has a new certificate", 40*time.Second, func() error {
		if after, err = d.serials(); err != nil {
			return err
		}
		for id, c := range after {
			if c.Serial == before[id].Serial {
				return fmt.Errorf("%s still has its old one", id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(at)
	for _, id := range slices.Sorted(maps.Keys(after)) {
		d.screen.saw("%-9s %s → %s, until %s", id, short(before[id].Serial), short(after[id].Serial), after[id].Expires.Local().Format("15:04:05"))
	}
	r := d.taken()
	if err := failures(r); err != nil {
		return err
	}
	d.screen.saw("%d requests in these %s: %d failed", r.Requests, seconds(took), r.Failed())
	now, err := d.nexus.Envoy.ConfigDump()
	if err != nil {
		return err
	}
	for _, name := range changed(dump.Versions(), now.Versions()) {
		if !strings.HasPrefix(name, "secret ") {
			return fmt.Errorf("%s moved too", name)
		}
	}
	d.screen.saw("no cluster, listener or route moved")
	return undo()
}

// serials returns the certificate of each Envoy by its id.
func (d *demo) serials() (map[string]run.Certificate, error) {
	out := make(map[string]run.Certificate)
	for id, machine := range d.machines {
		c, err := ownCertificate(machine)
		if err != nil {
			return nil, err
		}
		out[id] = c
	}
	return out, nil
}

// change edits the mesh file, and returns what undoes it.
func (d *demo) change(old, replacement string) (undo func() error, err error) {
	text, err := os.ReadFile(d.meshFile)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(text), old) {
		return nil, fmt.Errorf("the mesh file does not have %q", old)
	}
	err = run.WriteFile(d.meshFile, strings.Replace(string(text), old, replacement, 1))
	return func() error { return run.WriteFile(d.meshFile, string(text)) }, err
}

// changed returns the names whose versions differ, sorted.
func changed(before, after map[string]string) []string {
	var out []string
	for name, version := range after {
		if before[name] != version {
			out = append(out, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func failures(r traffic.Result) error {
	if r.Failed() == 0 {
		return nil
	}
	return fmt.Errorf("requests failed: %s", r)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// invite says what to try now.
func (d *demo) invite(failed error) {
	if failed != nil {
		d.screen.title("Something was not seen to happen; the mesh stays up for a look")
	} else {
		d.screen.title("The mesh stays up until Ctrl-C")
	}
	s, admin := d.screen, "http://"+d.mesh.Plane.AdminAddress()
	s.command("curl -s -H 'Host: lake_service' http://"+d.nexus.Outbound()+"/", "call as the app of nexus does")
	s.command("$EDITOR "+d.meshFile, "edit the mesh: it takes effect when you save, or is refused in the log below")
	s.command("tail -f "+d.dir+"/controlplane.log", "what the control plane says")
	s.command("curl -s "+admin+"/api/v1/proxies", "each proxy: what it was sent, acknowledged, refused")
	s.command("curl -s "+admin+"/metrics | grep ^controlplane_", "the control plane's metrics")
	s.command("curl -s --unix-socket "+d.nexus.Socket()+" http://envoy/config_dump", "what the Envoy of nexus runs")
	if d.mesh.Consul != nil {
		s.command("curl -X PUT 'http://"+d.mesh.Consul.HTTP+"/v1/agent/service/maintenance/lake-2?enable=true'", "take lake-2 out of rotation; enable=false brings it back")
		s.command("http://"+d.mesh.Consul.HTTP+"/ui/", "the catalog, as Consul's own page shows it")
	} else {
		s.command("$EDITOR "+strings.TrimPrefix(d.mesh.Catalog, "file:"), "the catalog: make lake-2 critical, say")
	}
}
