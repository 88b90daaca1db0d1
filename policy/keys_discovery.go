package policy

import "time"

var discoveryKeys = table[Discovery]{"discovery", []row[Discovery]{
	{
		name: "method", takes: one(word("consul", "file"), func(d *Discovery) *string { return &d.Method }), def: "consul",
		says: "where the catalog is", becomes: "endpoints (EDS), and which services there are",
	},
	{
		name: "file", takes: one(text(), func(d *Discovery) *string { return &d.File }), unset: "none",
		says: "path of the catalog, for method `file`; a relative one is relative to the working directory",
	},
	{
		name: "register", takes: one(boolean(), func(d *Discovery) *bool { return &d.Register }), def: "false",
		says:    "where the catalog is a file, connected proxies that have proved who they are, and say where they listen, are in it too; an instance that the file has at the same place is the file's. With Consul, `consul.register_interval` turns that on",
		becomes: "instances of a source of their own",
	},
	{name: "consul", takes: within[Discovery](&consulKeys), says: "how Consul is reached"},
}}

var consulKeys = table[Consul]{"consul", []row[Consul]{
	{
		name: "host", takes: one(host(), func(c *Consul) *string { return &c.Host }), def: "127.0.0.1",
		says: "the agent or server",
	},
	{
		name: "port", takes: one(port(), func(c *Consul) *uint16 { return &c.Port }), unset: "8500; 8501 with https",
		says: "its HTTP port",
	},
	{
		name: "fallbacks", takes: list(hostOrPort(), func(c *Consul) *[]string { return &c.Fallbacks }), unset: "none",
		says: "other agents or servers of the same datacenter, with the port above unless they have their own. The next one is asked when the one before it takes no connection, answers nothing for 10 s, or is out of touch with its leader; there it stays",
	},
	{
		name: "scheme", takes: one(word("http", "https"), func(c *Consul) *string { return &c.Scheme }), def: "http",
		says: "whether it is called by TLS",
	},
	{name: "tls", takes: within[Consul](&consulTLSKeys), unset: "none", says: "TLS, for scheme `https`"},
	{
		name: "token_file", takes: one(text(), func(c *Consul) *string { return &c.TokenFile }), unset: "`CONSUL_HTTP_TOKEN[_FILE]`",
		says: "file with the ACL token, read again when it changes; a token never stands in the mesh file",
	},
	{name: "token", refused: "a token never stands in the file: token_file: /run/secrets/consul-token, or CONSUL_HTTP_TOKEN"},
	{
		name: "datacenter", takes: one(datacenter(), func(c *Consul) *string { return &c.Datacenter }), unset: "the agent's own",
		says: "the datacenter that is asked", becomes: "`dc` of every query",
	},
	{
		name: "datacenters", takes: list(datacenter(), func(c *Consul) *[]string { return &c.Datacenters }), unset: "`datacenter` alone",
		says:    "the datacenters whose instances are in the mesh, by the same agent; `datacenter` is one of them, and has to be named. Each is read, doubted and lost by itself, and what is registered goes into `datacenter`",
		becomes: "the region in the locality of endpoints",
	},
	{
		name: "consistency", takes: one(word("stale", "default", "consistent"), func(c *Consul) *string { return &c.Consistency }), def: "stale",
		says: "how fresh Consul's answers must be", becomes: "mode of the queries",
	},
	{
		name: "register_interval", takes: one(duration(time.Second), func(c *Consul) *time.Duration { return &c.RegisterInterval }), unset: "none",
		says:    "registers the connected proxies in Consul, and compares them all with it each interval (docs/operations.md). No heartbeat: in between nothing is written",
		becomes: "an external node in Consul for each proxy",
	},
	{
		name: "deregister_critical_service_after", takes: one(duration(time.Second), func(c *Consul) *time.Duration { return &c.DeregisterCriticalServiceAfter }), unset: "30s, where proxies are registered",
		says:    "from the end of a proxy's stream to the removal of what was registered for it, as it stands here: half of the time, at most 15s, it is waited for, then it is in maintenance",
		becomes: "the removal of the node",
	},
	{name: "on_outage", takes: only[Consul]("hold", "drain"), unset: "`hold`", says: "what becomes of the instances that Consul no longer tells of: the last good catalog stays"},
	{name: "select", takes: within[Consul](&selectKeys), unset: "all of it", says: "which part of what Consul has is in the mesh. What an edit leaves out is gone at once, and is not doubted; one that leaves out much waits"},
	{name: "removals", takes: within[Consul](&removalsKeys), unset: "as below", says: "how long it is doubted that instances are gone"},
	{name: "register", takes: within[Consul](&registerKeys), unset: "as `register_interval` says", says: "what is registered"},
}}

var selectKeys = table[Select]{"select", []row[Select]{
	{
		name: "tags", takes: list(tag(), func(s *Select) *[]string { return &s.Tags }), unset: "any",
		says: "tags that an instance has, all of them; a service in which none has them is not in the mesh. One that loses a tag is out at once, and so are all at once: such a loss is never doubted", becomes: "the filter of Consul's list of services; which instances are endpoints",
	},
	{
		name: "exclude", takes: list(servicePattern(), func(s *Select) *[]string { return &s.Exclude }), unset: "none",
		says: "services that are not in the mesh, by their names in Consul, in any case; `*` for any part of one (`nomad*`). They are not even watched. `consul` itself never is in the mesh", becomes: "as if Consul did not have them",
	},
	{
		name: "only_passing", takes: one(boolean(), func(s *Select) *bool { return &s.OnlyPassing }), def: "false",
		says: "instances with a warning, critical, or in maintenance are left out, where they are endpoints else that are known to be unhealthy: `load_balancing.panic_threshold` then has nobody to fall back to. Who stops passing is out at once, and so are all at once (Consul's `serfHealth` in a network that fails, say): such a loss is never doubted", becomes: "which instances are endpoints",
	},
}}

var removalsKeys = table[Removals]{"removals", []row[Removals]{
	{
		name: "confirm", takes: one(duration(time.Second), func(r *Removals) *time.Duration { return &r.Confirm }), def: "3s",
		says: "to the read that confirms a removal of much, and between two of them: the last instance of a service is gone after twice that",
	},
	{
		name: "connected", takes: one(duration(time.Second), func(r *Removals) *time.Duration { return &r.Connected }), def: "1m",
		says: "for how long an instance is kept that the catalog dropped while its sidecar is connected",
	},
	{
		name: "restored", takes: one(duration(time.Second), func(r *Removals) *time.Duration { return &r.Restored }), def: "2m",
		says: "for how long all removals are held after Consul's index went back: it was wiped, or restored",
	},
	{
		name: "reconnect", takes: one(duration(time.Second), func(r *Removals) *time.Duration { return &r.Reconnect }), def: "2m",
		says: "for how long what a new source does not have is kept, of few instances without a sidecar that is connected here",
	},
}}

var registerKeys = table[Register]{"register", []row[Register]{
	{
		name: "enabled", takes: one(boolean(), func(r *Register) *bool { return &r.Enabled }), unset: "true where the file has `register` or `register_interval`",
		says: "false stops: what is registered then stays in Consul as it is, and nobody looks after it",
	},
	{
		name: "control_plane", takes: one(boolean(), func(r *Register) *bool { return &r.ControlPlane }), def: "false",
		says: "registers each replica of the control plane too, as the service `control-plane`", becomes: "an instance with the address of `--xds-address`; its check is what `/readyz` says",
	},
	{name: "services", takes: list(object(&registeredKeys, checkRegistered), func(r *Register) *[]RegisteredService { return &r.Services }), unset: "none", says: "instances that no proxy speaks for, below", becomes: "an external node in Consul each, written by one replica"},
}}

var registeredKeys = table[RegisteredService]{"registered", []row[RegisteredService]{
	{name: "name", takes: one(serviceName(), func(s *RegisteredService) *string { return &s.Name }), required: true, hint: "name: postgres", says: "the service in Consul"},
	{name: "id", takes: one(text(), func(s *RegisteredService) *string { return &s.ID }), required: true, hint: "id: postgres-1", says: "the instance, unlike every other and every `node.id`"},
	{name: "address", takes: one(host(), func(s *RegisteredService) *string { return &s.Address }), required: true, hint: "address: 10.0.0.11", says: "where it is"},
	{name: "port", takes: one(port(), func(s *RegisteredService) *uint16 { return &s.Port }), required: true, hint: "port: 8080", says: "its port"},
	{name: "tags", takes: list(text(), func(s *RegisteredService) *[]string { return &s.Tags }), unset: "none", says: "its tags"},
	{name: "meta", takes: one(texts(), func(s *RegisteredService) *map[string]string { return &s.Meta }), unset: "none", says: "its metadata; `mesh_port` puts it in the mesh"},
	{name: "check", takes: within[RegisteredService](&registeredCheckKeys), unset: "none: it is passing", says: "how its health is found out"},
}}

var registeredCheckKeys = table[RegisteredCheck]{"registered_check", []row[RegisteredCheck]{
	{name: "http", takes: one(checkURL(), func(c *RegisteredCheck) *string { return &c.HTTP }), unset: "none", says: "a GET: 2xx is passing, 429 a warning, all else critical"},
	{name: "tcp", takes: one(hostPort(), func(c *RegisteredCheck) *string { return &c.TCP }), unset: "none", says: "a connection"},
	{name: "grpc", takes: one(grpcTarget(), func(c *RegisteredCheck) *string { return &c.GRPC }), unset: "none", says: "gRPC's health protocol, without TLS: SERVING is passing, all else critical; one of `http`, `tcp` and `grpc` has to be there"},
	{name: "by", takes: one(word("control_plane", "agent"), func(c *RegisteredCheck) *string { return &c.By }), unset: "`control_plane`", says: "who makes it: `agent` is the Consul agent that the control plane calls, and the instance is registered there: its checks go on while no control plane runs", becomes: "a service of that agent, in its own datacenter, in the place of an external node"},
	{name: "interval", takes: one(duration(time.Second), func(c *RegisteredCheck) *time.Duration { return &c.Interval }), unset: "10s", says: "between two checks"},
	{name: "timeout", takes: one(duration(100*time.Millisecond), func(c *RegisteredCheck) *time.Duration { return &c.Timeout }), unset: "2s", says: "how long one may take"},
}}

var consulTLSKeys = table[ConsulTLS]{"consul_tls", []row[ConsulTLS]{
	{
		name: "ca_file", takes: one(text(), func(t *ConsulTLS) *string { return &t.CAFile }), unset: "the system's roots",
		says: "who signs Consul's certificate",
	},
	{
		name: "cert_file", takes: one(text(), func(t *ConsulTLS) *string { return &t.CertFile }), unset: "no client certificate",
		says: "the certificate that Consul is shown, and its key: both or neither",
	},
	{name: "key_file", takes: one(text(), func(t *ConsulTLS) *string { return &t.KeyFile })},
	{
		name: "server_name", takes: one(text(), func(t *ConsulTLS) *string { return &t.ServerName }), unset: "`consul.host`",
		says: "the name that Consul's certificate must have",
	},
}}
