package codes

// file are the codes of a file's shape.
func file() []Entry {
	return []Entry{
		{
			Code: "MC1001", Title: "the file is not YAML, or not UTF-8",
			Why:     "Nothing else is checked before it is. A tab at the beginning of a line, a `${…}` without quotes inside braces, a `:` within a value and a file saved in Latin-1 are the usual causes.",
			Example: "  version: a: b\n", Fix: "Put the value in quotes, indent with blanks, save the file as UTF-8.",
		},
		{
			Code: "MC1002", Title: "a second document in the file",
			Why:     "A mesh file is one document; what stands below `---` would be ignored.",
			Example: "---\nmesh: {name: m}\n---\nmesh: {name: n}\n", Fix: "Put the second document in a file of its own and name both: `-f a.yaml -f b.yaml`.",
		},
		{
			Code: "MC1003", Title: "a key that nobody knows",
			Why:     "A key that is ignored is a setting that an operator believes to have. Keys that begin with `x-` are yours.",
			Example: "  circuit_breakers: {default: {max_conections: 1024}}\n", Fix: "Write the key as the message suggests; `controlplane explain FIELD.PATH` lists those of a section.",
		},
		{
			Code: "MC1004", Title: "a key, or the key of a tag, that stands twice",
			Why:     "One of both would be lost, and YAML does not say which.",
			Example: "  version: \"1\"\n  version: \"2\"\n", Fix: "Take one of them out.",
		},
		{
			Code: "MC1005", Title: "a value of another type",
			Why:     "A list where a map is wanted, a word where a number is. YAML takes 1.0 for a number and yes for a word.",
			Example: "  version: 1.0\n", Fix: "Write what `controlplane explain FIELD.PATH` says that the key takes; put a text that looks like a number in quotes.",
		},
		{
			Code: "MC1006", Title: "a key is missing",
			Why:     "The section means nothing without it.",
			Example: "  load_balancing: {health_checks: {protocol: http}}\n", Fix: "Add the key; the message has an example of it.",
		},
		{
			Code: "MC1007", Title: "not supported yet",
			Why:     "The name is kept for a feature to come. A file that is taken with it would promise what nothing does.",
			Example: "  rollouts: []\n", Fix: "Leave the key out.",
		},
		{
			Code: "MC1008", Title: "an alias that leads nowhere, or too far",
			Why:     "An alias within its own anchor, a `<<` of what is no map, or aliases that grow beyond bounds.",
			Example: "  x-a: &a [*a]\n", Fix: "Write the value out instead of the alias.",
		},
		{
			Code: "MC1009", Title: "the file has environments, and not this one",
			Why:     "A misspelled environment would be served with the settings of none.",
			Example: "  environments: {staging: {version: \"2\"}}\n", Environment: "stagign",
			Fix: "Name one of `mesh.environments` with `--environment`, or none.",
		},
		{
			Code: "MC1301", Title: "a variable that must be set is not",
			Why:     "`${V:?message}` says that the file means nothing without V.",
			Example: "  version: \"${V:?say which}\"\n", Fix: "Set the variable where the control plane runs, or give it a default: `${V:-default}`.",
		},
		{
			Code: "MC1302", Title: "a `${…}` that cannot be read",
			Why:     "It is `${V}`, `${V:-default}`, `${V-default}`, `${V:+value}` or `${V:?message}`; a dollar sign itself is `$$`.",
			Example: "  version: \"${V\"\n", Fix: "Close the brace, or write `$$` for a dollar sign.",
		},
	}
}
