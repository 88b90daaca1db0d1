package policy

import "time"

var slowStartKeys = table[SlowStart]{"slow_start", []row[SlowStart]{
	{
		name: "window", takes: one(durationUpTo(0, time.Hour), func(s *SlowStart) *time.Duration { return &s.Window }), def: "30s",
		says: "how long after it comes, or is healthy again, an instance has less than its share; 0s: no slow start", becomes: "`slow_start_config.slow_start_window`",
	},
	{
		name: "min_weight_percent", takes: one(percentage(), func(s *SlowStart) *float64 { return &s.MinWeightPercent }), def: "10",
		says: "of its share, that it has from the beginning", becomes: "`…min_weight_percent`",
	},
}}

var admissionKeys = table[AdmissionControl]{"admission_control", []row[AdmissionControl]{
	{name: "enabled", takes: one(boolean(), func(a *AdmissionControl) *bool { return &a.Enabled }), def: "true", says: "false turns it off for a service", becomes: "HTTP filter `admission_control`, inbound, by ECDS"},
	{
		name: "success_rate", takes: one(whole(1, 100), func(a *AdmissionControl) *uint32 { return &a.SuccessRate }), def: "95",
		says: "percent of good answers below which a part of the requests is refused with 503: the more fail, the more. Good is what is no 5xx, and of gRPC what is not the service's own failure", becomes: "`sr_threshold`",
	},
	{name: "window", takes: one(durationUpTo(time.Second, time.Hour), func(a *AdmissionControl) *time.Duration { return &a.Window }), def: "30s", says: "the time that it looks back, in whole seconds", becomes: "`sampling_window`"},
	{name: "min_rps", takes: one(whole(0, most), func(a *AdmissionControl) *uint32 { return &a.MinRPS }), def: "5", says: "requests a second below which nothing is refused", becomes: "`rps_threshold`"},
	{name: "max_rejection", takes: one(percentage(), func(a *AdmissionControl) *float64 { return &a.MaxRejection }), def: "80", says: "percent that is refused at most: the rest finds out when it is better", becomes: "`max_rejection_probability`"},
}}
