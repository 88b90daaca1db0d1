package api

import (
	"errors"
	"fmt"
	"strings"
)

// Call is a call that an application would make.
type Call struct {
	From    string            `json:"from"` // a service
	To      string            `json:"to"`   // a service
	Method  string            `json:"method,omitempty"`
	Path    string            `json:"path,omitempty"` // with its query, if it has one
	Host    string            `json:"host,omitempty"` // empty: To
	Headers map[string]string `json:"headers,omitempty"`
}

// With is the call with headers, each NAME=VALUE, and with what is not said of it; an
// error if there is no such call.
func (c Call) With(headers []string) (Call, error) {
	if c.From == "" || c.To == "" {
		return c, errors.New("want a service that calls, and one that is called")
	}
	if c.Method == "" {
		c.Method = "GET"
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.Path[0] != '/' || strings.ContainsAny(c.Path, "# \r\n") {
		return c, fmt.Errorf("path %q: want one that begins with a slash, without blanks and fragments", c.Path)
	}
	c.Headers = make(map[string]string, len(headers))
	for _, h := range headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return c, fmt.Errorf("header %q: want NAME=VALUE", h)
		}
		name = strings.ToLower(name)
		if name == "host" {
			return c, errors.New("header host: it is said as host")
		}
		if before, twice := c.Headers[name]; twice {
			value = before + "," + value // as proxies read several lines
		}
		c.Headers[name] = value
	}
	return c, nil
}

// Outcome is how a call ends.
type Outcome string

// The outcomes. Answered is what the mesh file has a proxy answer: a redirect, or an
// answer of its own. Depends is where some calls end so and some otherwise.
const (
	Passes   Outcome = "passes"
	Answered Outcome = "answered"
	Fails    Outcome = "fails"
	Depends  Outcome = "depends"
)

// End is how a call, or a part of the calls, ends.
type End struct {
	Outcome Outcome `json:"outcome"`
	Status  int     `json:"status,omitempty"` // what a proxy answers; 0: the application answers, or nobody does
	Code    string  `json:"code,omitempty"`   // of package codes
	Flag    string  `json:"flag,omitempty"`   // Envoy's response flag
	Says    string  `json:"says"`             // what will happen
	Fix     string  `json:"fix,omitempty"`    // what to change
	// Location is where a redirect leads, and Path what the application is asked for.
	Location string `json:"location,omitempty"`
	Path     string `json:"path,omitempty"`
}

// Sentence is the end in one sentence.
func (e End) Sentence() string {
	s := e.Says
	if e.Code != "" {
		s += " (" + e.Code + ")"
	}
	if e.Fix != "" {
		s += ": " + e.Fix
	}
	return s
}

// Step is one thing that was looked at on the way.
type Step struct {
	What    string   `json:"what"` // host, route, cluster, endpoints, tls, authorization, rate limit
	Says    string   `json:"says"`
	Source  string   `json:"source,omitempty"` // FILE:LINE:COL of the mesh file
	Details []string `json:"details,omitempty"`
}

// Way is what becomes of a part of the calls.
type Way struct {
	Percent float64 `json:"percent"`
	Cluster string  `json:"cluster,omitempty"`
	Service string  `json:"service,omitempty"` // whose cluster it is
	Steps   []Step  `json:"steps"`
	End     End     `json:"end"`
}

// Verdict is what becomes of a call.
type Verdict struct {
	Call     Call   `json:"call"`
	Protocol string `json:"protocol"` // http or tcp
	Steps    []Step `json:"steps"`
	Ways     []Way  `json:"ways,omitempty"`
	End      End    `json:"end"`
	// Notes say what else should be known: a caller that nobody knows, say.
	Notes []string `json:"notes,omitempty"`
}

// Good reports whether the call ends as the mesh file wants it to.
func (e End) Good() bool { return e.Outcome == Passes || e.Outcome == Answered }
