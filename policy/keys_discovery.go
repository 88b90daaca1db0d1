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
	{name: "on_outage", later: true, says: "the last good catalog stays"},
	{name: "select", later: true},
	{name: "register", takes: within[Consul](&registerKeys), unset: "as `register_interval` says", says: "what is registered"},
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
	{name: "http", takes: one(checkURL(), func(c *RegisteredCheck) *string { return &c.HTTP }), unset: "none", says: "a GET by the control plane: 2xx is passing, 429 a warning, all else critical"},
	{name: "tcp", takes: one(hostPort(), func(c *RegisteredCheck) *string { return &c.TCP }), unset: "none", says: "a connection by the control plane; one of `http` and `tcp` has to be there"},
	{name: "grpc", later: true},
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
