package policy

var localityKeys = table[Locality]{"locality", []row[Locality]{
	{
		name: "mode", takes: one(word(AnyLocality, PreferLocal), func(l *Locality) *LocalityMode { return &l.Mode }), def: "any",
		says:    "`prefer_local`: as long as the caller's own zone has a healthy instance, it alone is called, and else those of every zone. For `least_request`, `round_robin` and `random`",
		becomes: "`locality_lb_config.zone_aware_lb_config.force_local_zone` in the policy",
	},
	{
		name: "zone_meta", takes: one(text(), func(l *Locality) *string { return &l.ZoneMeta }), def: MetaZone,
		says: "the metadata that has an instance's zone, its own or else its node's", becomes: "the zone in the locality of endpoints",
	},
	{
		name: "zone_tag", takes: one(text(), func(l *Locality) *string { return &l.ZoneTag }), unset: "none",
		says: "what the tag begins with that has an instance's zone: with `zone=` the tag `zone=a` says `a`. It comes before metadata", becomes: "as above",
	},
	{
		name: "failover", takes: list(object(&failoverKeys, checkFailover), func(l *Locality) *[]Failover { return &l.Failover }), unset: "none: the instances of every datacenter are alike",
		says:    "where calls from a datacenter go: to its own instances, and when those cannot take them, to others, in this order. A caller is in the datacenter that its bootstrap has as `--region`; one in none of those named calls all alike",
		becomes: "`priority` of endpoints",
	},
	{
		name: "min_healthy_percent", takes: one(whole(1, 100), func(l *Locality) *uint32 { return &l.MinHealthyPercent }), def: "70",
		says: "the share of healthy instances of a datacenter below which a part of its calls goes on to the next one: all go when it has none", becomes: "`policy.overprovisioning_factor`: 10000 by it",
	},
}}

var failoverKeys = table[Failover]{"failover", []row[Failover]{
	{name: "from", takes: list(datacenter(), func(f *Failover) *[]string { return &f.From }), required: true, hint: "from: [dc1]", says: "the datacenters whose callers this is for"},
	{name: "to", takes: list(datacenter(), func(f *Failover) *[]string { return &f.To }), unset: "none: calls stay in their own datacenter", says: "the datacenters that stand behind their own; others are never called"},
}}
