package policy

var subsetKeys = table[Subset]{"subset", []row[Subset]{
	{
		name: "tag", takes: one(text(), func(s *Subset) *string { return &s.Tag }), unset: "where the subset says nothing: its name",
		says: "a tag that its instances have. Nomad gives new instances the tags of `canary_tags`", becomes: "which instances are its endpoints",
	},
	{
		name: "version", takes: one(text(), func(s *Subset) *string { return &s.Version }), unset: "any",
		says: "the version of its instances, as their metadata have it: that of a sidecar's `--version`, or meta `version`", becomes: "as above",
	},
	{
		name: "meta", takes: one(texts(), func(s *Subset) *map[string]string { return &s.Meta }), unset: "any",
		says: "metadata that its instances have, all of them", becomes: "as above",
	},
	{
		name: "filter", takes: one(filterText(), func(s *Subset) *string { return &s.Filter }), unset: "any",
		says: "an expression in the language of Consul's filters over `Service.ID`, `Service.Service`, `Service.Address`, `Service.Port`, `Service.Tags` and `Service.Meta.KEY`: `Service.Meta.version == \"v3\" and \"beta\" in Service.Tags`", becomes: "as above",
	},
	{
		name: "only_passing", takes: one(boolean(), func(s *Subset) *bool { return &s.OnlyPassing }), def: "false",
		says: "only instances that are passing: who has a warning is in no such subset", becomes: "as above",
	},
}}
