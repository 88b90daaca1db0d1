package policy

import "time"

var editsKeys = table[Edits]{"edits", []row[Edits]{
	{
		name: "waves", takes: one(boolean(), func(e *Edits) *bool { return &e.Waves }), def: "false",
		says: "an edit that has this goes to one of the proxies that it concerns first, then to a twentieth of them, then to a quarter, then to all. " +
			"It is taken back where one of them refuses it, does not answer for a minute, or is gone; the last file then stays in force (docs/operations.md)",
		becomes: "which of two snapshots a proxy is served",
	},
	{
		name: "bake", takes: one(durationUpTo(time.Second, time.Hour), func(e *Edits) *time.Duration { return &e.Bake }), def: "10s",
		says: "how long the proxies of a wave have to have an edit before the next wave has it",
	},
}}
