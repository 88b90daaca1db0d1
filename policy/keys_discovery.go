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
		says: "heartbeat of the registrations", becomes: "nothing until automated registration; a warning says so",
	},
	{
		name: "deregister_critical_service_after", takes: one(duration(time.Second), func(c *Consul) *time.Duration { return &c.DeregisterCriticalServiceAfter }), unset: "none",
		says: "when Consul drops an instance that stays critical; its minimum is 1m", becomes: "nothing until automated registration",
	},
	{name: "on_outage", later: true, says: "the last good catalog stays"},
	{name: "select", later: true},
	{name: "register", later: true},
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
