package why

import (
	"fmt"
	"slices"
	"strings"

	"datapunk.dev/controlplane/admin/api"
)

// What is said has the words of the operators' API.
type (
	// Call is a call that an application would make.
	Call = api.Call
	// Verdict is what becomes of it.
	Verdict = api.Verdict
	// Step is one thing that was looked at on the way.
	Step = api.Step
	// Way is what becomes of a part of the calls.
	Way = api.Way
	// End is how a call, or a part of the calls, ends.
	End = api.End
)

// The outcomes.
const (
	passes   = api.Passes
	answered = api.Answered
	fails    = api.Fails
	depends  = api.Depends
)

// settle makes the end of a call of those of its ways.
func settle(v *Verdict) {
	if len(v.Ways) == 0 {
		return
	}
	ends := make([]End, len(v.Ways))
	shares := make([]float64, len(v.Ways))
	for i, w := range v.Ways {
		ends[i], shares[i] = w.End, w.Percent
	}
	v.End = merged(ends, shares)
}

// merged is the end of calls of which each share ends as it says.
func merged(ends []End, shares []float64) End {
	first := ends[0]
	if !slices.ContainsFunc(ends, func(e End) bool {
		return e.Outcome != first.Outcome || e.Status != first.Status || e.Code != first.Code
	}) {
		for _, e := range ends {
			if first.Path != e.Path {
				first.Path = ""
			}
		}
		return first
	}
	merged := End{Outcome: depends}
	if !slices.ContainsFunc(ends, func(e End) bool { return !e.Good() }) {
		merged.Outcome = passes
	}
	var parts []string
	for i, e := range ends {
		part := e.Says
		if e.Code != "" {
			part += " (" + e.Code + ")"
		}
		if shares != nil {
			part = fmt.Sprintf("%s of the calls: %s", percent(shares[i]), part)
		}
		parts = append(parts, part)
		if merged.Fix == "" {
			merged.Fix = e.Fix
		}
	}
	merged.Says = strings.Join(parts, "; ")
	return merged
}

func percent(p float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", p), "0"), ".") + " %"
}
