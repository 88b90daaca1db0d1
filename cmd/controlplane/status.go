package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin"
	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/configdump"
	"datapunk.dev/controlplane/control"
)

func newStatusCommand() *cobra.Command {
	var server adminFlags
	var q statusQuery
	var every time.Duration
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [NODE]",
		Short: "Show how the control plane and its proxies are",
		Long: "status shows the control planes of the mesh, what is held and why, and each proxy with the state of each type\n" +
			"of resources: SYNCED, PENDING, REJECTED with the reason and the line that made it, or NOT_SENT. With a NODE it\n" +
			"shows that proxy, and with --envoy what its Envoy, asked at its admin address, has otherwise than it was sent:\n" +
			"then it exits with 2 if there is a difference.",
		Example:           "  controlplane status --unhealthy --watch\n  controlplane status lake-1 --envoy 127.0.0.1:9901",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: server.complete("proxy"),
		Annotations:       map[string]string{findings: "differences"},
	}
	out := outputFlag(cmd, tableForms...)
	server.add(cmd)
	f := cmd.Flags()
	f.StringVar(&q.service, "service", "", "only the proxies of a service")
	f.BoolVar(&q.unhealthy, "unhealthy", false, "only proxies that are not SYNCED in all that they asked for")
	f.BoolVar(&watch, "watch", false, "show it again and again, until ended")
	f.DurationVar(&every, "interval", 2*time.Second, "how often, with --watch")
	f.StringVar(&q.envoy, "envoy", "", "admin address of the NODE's Envoy, HOST:PORT or unix:PATH, to compare with")
	_ = cmd.RegisterFlagCompletionFunc("service", server.complete("service")) // the flag is there
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.envoy != "" && len(args) == 0 {
			return errors.New("--envoy takes a NODE")
		}
		client, err := server.client()
		if err != nil {
			return err
		}
		show := func(w io.Writer) error {
			if len(args) == 1 {
				return q.showProxy(cmd, client, out, w, args[0])
			}
			return q.showAll(cmd, client, out, w)
		}
		if !watch {
			return show(cmd.OutOrStdout())
		}
		return again(cmd, every, show)
	}
	return cmd
}

// again shows something until the command is ended. On a terminal it is always in one
// place.
func again(cmd *cobra.Command, every time.Duration, show func(io.Writer) error) error {
	out := cmd.OutOrStdout()
	for {
		var screen bytes.Buffer
		if isTerminal(out) {
			screen.WriteString("\x1b[H\x1b[2J")
		}
		if err := show(&screen); err != nil && cmd.Context().Err() == nil {
			return err
		}
		if _, err := io.WriteString(out, colored(out, screen.String())); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(max(every, 100*time.Millisecond)):
		}
		if !isTerminal(out) {
			if _, err := io.WriteString(out, "\n"); err != nil {
				return err
			}
		}
	}
}

// statusQuery is what of the fleet is shown.
type statusQuery struct {
	service   string
	unhealthy bool
	envoy     string
}

// fleetStatus is what status shows, as JSON has it.
type fleetStatus struct {
	Status   api.Status   `json:"status"`
	Replicas api.Replicas `json:"replicas"`
	Proxies  []api.Proxy  `json:"proxies"`
}

func (q *statusQuery) showAll(cmd *cobra.Command, client *adminClient, out *output, w io.Writer) error {
	var is fleetStatus
	ctx := cmd.Context()
	if err := client.get(ctx, "/status", nil, &is.Status); err != nil {
		return err
	}
	if err := client.get(ctx, "/replicas", nil, &is.Replicas); err != nil {
		return err
	}
	var err error
	if is.Proxies, err = client.proxies(ctx, q.service); err != nil {
		return err
	}
	if q.unhealthy {
		is.Proxies = slices.DeleteFunc(is.Proxies, func(p api.Proxy) bool { return p.State() == api.Synced && len(p.Missing) == 0 })
	}
	return out.write(w, is, func(w io.Writer) error { return printFleet(w, out, &is, time.Now()) })
}

// printFleet writes what is wrong first, then tables.
func printFleet(w io.Writer, out *output, is *fleetStatus, now time.Time) error {
	s := &is.Status
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s: %s, mesh %s at revision %s, %d services of the catalog\n", s.Replica, s.Version,
		map[bool]string{true: "ready", false: "not ready"}[s.Ready], s.Mesh.Name, s.Mesh.Revision, s.Catalog.Services)
	for _, list := range []struct {
		name  string
		lines []string
	}{{"waiting for", s.Waiting}, {"holding", s.Holding}, {"problem", s.Problems}} {
		for _, line := range list.lines {
			fmt.Fprintf(&text, "%s: %s\n", list.name, clean(line))
		}
	}
	for _, h := range s.Held {
		fmt.Fprintf(&text, "held: %s %s from %s: %s\n", h.Type, clean(h.Name), cmp.Or(h.Source, "the catalog"), clean(h.Why))
	}
	for _, u := range s.Unanswered {
		fmt.Fprintf(&text, "the proxies of replica %s are missing: %s\n", clean(u.Replica), clean(u.Why))
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return err
	}
	if err := printStatus(w, is.Replicas, now); err != nil {
		return err
	}
	if len(is.Proxies) == 0 {
		_, err := io.WriteString(w, "\nno proxy is shown\n")
		return err
	}
	rows := [][]string{{"PROXY", "SERVICE"}}
	for _, t := range shownTypes {
		rows[0] = append(rows[0], strings.ToUpper(t))
	}
	rows[0] = append(rows[0], "FOR")
	if out.wide() {
		rows[0] = append(rows[0], "REPLICA", "AGENT", "FROM")
	}
	for _, p := range is.Proxies {
		row := []string{p.Node, p.Service}
		for _, t := range shownTypes {
			row = append(row, cmp.Or(string(p.Types[t].State), "-"))
		}
		row = append(row, now.Sub(p.Connected).Truncate(time.Second).String())
		if out.wide() {
			row = append(row, cmp.Or(p.Replica, s.Replica), cmp.Or(p.Agent+" "+p.Version, "-"), p.Peer)
		}
		rows = append(rows, row)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	if err := out.table(w, rows); err != nil {
		return err
	}
	return printWrong(w, is.Proxies)
}

// shownTypes are the types of resources, in the order of their tables.
var shownTypes = []string{"cluster", "endpoint", "secret", "listener", "scoped_route", "route", "runtime"}

// printWrong writes why proxies have not what they should.
func printWrong(w io.Writer, proxies []api.Proxy) error {
	var text strings.Builder
	for _, p := range proxies {
		for _, name := range shownTypes {
			t := p.Types[name]
			if n := t.LastNack; n != nil && t.State == api.Rejected {
				fmt.Fprintf(&text, "\n%s rejects %s %s at %s: %s\n", clean(p.Node), name, cmp.Or(clean(n.Resource), "one of "+clean(strings.Join(n.Resources, ", "))), n.Time.UTC().Format(time.RFC3339), clean(n.Message))
				if n.Cause != "" {
					fmt.Fprintf(&text, "    for what is on its own machine: %s\n", n.Cause)
				}
				if n.Source != "" {
					fmt.Fprintf(&text, "    from %s\n", n.Source)
				}
			}
			for _, q := range t.Quarantined {
				fmt.Fprintf(&text, "\n%s has not the newest %s %s, which others refused: %s\n", clean(p.Node), name, clean(q.Name), clean(q.Message))
				if q.Source != "" {
					fmt.Fprintf(&text, "    from %s\n", q.Source)
				}
			}
		}
		for _, m := range p.Missing {
			fmt.Fprintf(&text, "\n%s: %s\n", clean(p.Node), clean(m))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// clean is text that others chose, without what moves a terminal.
func clean(s string) string { return strings.Map(printable, s) }

// proxyStatus is what status NODE shows, as JSON has it.
type proxyStatus struct {
	Proxy       api.Proxy               `json:"proxy"`
	Differences []configdump.Difference `json:"differences,omitempty"`
	// Compared says that its Envoy was asked.
	Compared bool `json:"compared,omitempty"`
}

func (q *statusQuery) showProxy(cmd *cobra.Command, client *adminClient, out *output, w io.Writer, node string) error {
	var is proxyStatus
	ctx := cmd.Context()
	if err := client.get(ctx, "/proxies/"+url.PathEscape(node), nil, &is.Proxy); err != nil {
		return err
	}
	if q.envoy != "" {
		var sent api.Resources
		if err := client.get(ctx, "/proxies/"+url.PathEscape(node)+"/resources", nil, &sent); err != nil {
			return err
		}
		dump, err := envoyDump(ctx, q.envoy)
		if err != nil {
			return err
		}
		is.Compared = true
		if is.Differences, err = configdump.Compare(sent.Resources, dump); err != nil {
			return fmt.Errorf("the Envoy at %s: %w", q.envoy, err)
		}
	}
	if err := out.write(w, is, func(w io.Writer) error { return printProxy(w, out, &is, time.Now()) }); err != nil {
		return err
	}
	if len(is.Differences) > 0 {
		return foundError{errors.New("the Envoy has not what it was sent")}
	}
	return nil
}

func printProxy(w io.Writer, out *output, is *proxyStatus, now time.Time) error {
	p := &is.Proxy
	var text strings.Builder
	fmt.Fprintf(&text, "%s of %s, %s %s at %s, connected for %s by %s\n", clean(p.Node), clean(p.Service), clean(cmp.Or(p.Agent, "an unknown client")), clean(p.Version),
		p.Peer, now.Sub(p.Connected).Truncate(time.Second), p.Protocol)
	if c := p.Certificate; c != nil {
		ends := "it ends when is not known here"
		if c.Expires != nil {
			ends = "it ends in " + c.Expires.Sub(now).Truncate(time.Minute).String()
		}
		fmt.Fprintf(&text, "certificate %s: %s\n", cmp.Or(c.Serial, "from before"), ends)
	}
	if _, err := io.WriteString(w, text.String()+"\n"); err != nil {
		return err
	}
	rows := [][]string{{"TYPE", "STATE", "SENT", "ACKNOWLEDGED"}}
	for _, name := range shownTypes {
		t := p.Types[name]
		rows = append(rows, []string{name, cmp.Or(string(t.State), "-"), cmp.Or(t.Sent, "-"), cmp.Or(t.Acknowledged, "-")})
	}
	if err := out.table(w, rows); err != nil {
		return err
	}
	if err := printWrong(w, []api.Proxy{*p}); err != nil || !is.Compared {
		return err
	}
	text.Reset()
	text.WriteString("\nits Envoy has what it was sent\n")
	if len(is.Differences) > 0 {
		text.Reset()
		fmt.Fprintf(&text, "\nits Envoy has %d resources otherwise than it was sent:\n", len(is.Differences))
	}
	for _, d := range is.Differences {
		fmt.Fprintf(&text, "  %s %s: %s\n", d.Type, clean(d.Name), clean(d.What))
		for _, f := range d.Fields {
			fmt.Fprintf(&text, "      %s: sent %s, has %s\n", f.Path, clean(f.Sent), clean(f.Has))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// printStatus writes a line about who leads, and a table.
func printStatus(w io.Writer, r api.Replicas, now time.Time) error {
	var text strings.Builder
	switch {
	case r.Leadership == string(control.LeaderSelf):
		text.WriteString("one control plane, which knows of no other (--leader self)\n")
	case r.Leadership == string(control.LeaderNone):
		text.WriteString("one of several control planes, which does not lead and knows of no other (--leader none)\n")
	case r.Leader == "":
		text.WriteString("nobody leads\n")
	default:
		text.WriteString("leader " + r.Leader + ", mTLS at step " + r.MTLSStep + "\n")
	}
	if r.Trouble != "" {
		text.WriteString("as it was last: " + r.Trouble + "\n")
	}
	rows := [][]string{{"REPLICA", "", "UP", "ENVOYS", "MESH FILE", "CATALOG", "XDS", "DISAGREES FOR"}}
	for _, m := range r.Replicas {
		var marks []string
		if m.Name == r.Leader {
			marks = append(marks, "leads")
		}
		if m.Name == r.Replica {
			marks = append(marks, "asked")
		}
		if m.Draining {
			marks = append(marks, "draining")
		}
		rows = append(rows, []string{
			m.Name, strings.Join(marks, ","), now.Sub(m.Started).Truncate(time.Second).String(), strconv.Itoa(m.Streams),
			cmp.Or(m.MeshRevision, "-"), cmp.Or(m.Catalog, "-"), cmp.Or(m.Address, "-"), cmp.Or(m.DisagreesFor, "-"),
		})
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return err
	}
	return printTable(w, rows)
}

// fleetOf is the proxies of all replicas, as the admin address says them.
func fleetOf(s control.FleetStatus, err error) (admin.Fleet, error) {
	f := admin.Fleet{Proxies: s.Proxies}
	for _, u := range s.Unanswered {
		f.Unanswered = append(f.Unanswered, api.Unanswered(u))
	}
	return f, err
}

// replicasOf is what is known of the replicas, as the admin address says it.
func replicasOf(s control.ReplicaStatus) api.Replicas {
	out := api.Replicas{
		Leadership: string(s.Leadership), Replica: s.Self, Leader: s.Leader, Leads: s.Leads, Trouble: s.Trouble, Replicas: []api.Replica{},
	}
	if s.Leadership == control.LeaderConsul {
		out.MTLSStep = fmt.Sprintf("%d/%d", s.Step, s.Steps)
	}
	for _, m := range s.Members {
		r := api.Replica{
			Name: m.Name, Address: m.Address, Started: m.Started, Streams: m.Streams, MeshRevision: m.Mesh, Catalog: m.Catalog, Draining: m.Draining,
		}
		if m.Apart >= time.Second {
			r.DisagreesFor = m.Apart.Truncate(time.Second).String()
		}
		out.Replicas = append(out.Replicas, r)
	}
	return out
}
