// Package api is the operators' API as those see it who call it: the types of its
// answers, its errors, and the OpenAPI document. The command line and the page link it
// and nothing of what is behind it; so it imports none of our packages.
package api

import _ "embed"

// Prefix is the path of this version of the API.
const Prefix = "/api/v1"

// Document describes the API in OpenAPI 3. It is made of the routes and the types by
// `go test ./admin -run Document -update`.
//
//go:embed openapi.json
var Document []byte

// Role is what a caller may do.
type Role string

// The roles. Who may operate may read.
const (
	Read    Role = "read"    // see everything but secrets
	Operate Role = "operate" // and pin, decide, rotate
)

// May reports whether the role has the rights of another one.
func (r Role) May(other Role) bool { return r == other || r == Operate && other == Read }

// Caller is who calls.
type Caller struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
}

// Reason is why something was not done, as a word of a short list.
type Reason string

// The reasons.
const (
	Invalid         Reason = "invalid"         // the request is wrong as it stands: 400
	Unauthenticated Reason = "unauthenticated" // no token, or none that is good: 401
	Forbidden       Reason = "forbidden"       // the token has not the role: 403
	NotFound        Reason = "not_found"       // 404
	WrongMethod     Reason = "wrong_method"    // 405
	Conflict        Reason = "conflict"        // not in this state: 409
	TooLarge        Reason = "too_large"       // 413
	Busy            Reason = "busy"            // as much as may be is under way: 429
	Internal        Reason = "internal"        // 500
	Unavailable     Reason = "unavailable"     // not yet, or no more: 503
	Timeout         Reason = "timeout"         // it took too long: 504
)

// Error is the body of every answer that is no success.
type Error struct {
	Message string `json:"error"`
	Reason  Reason `json:"reason"`
	Hint    string `json:"hint,omitempty"`
	// Problems are those of a mesh file that was sent along.
	Problems []Problem `json:"problems,omitempty"`
}

// Error implements error.
func (e *Error) Error() string {
	if e.Hint != "" {
		return e.Message + ": " + e.Hint
	}
	return e.Message
}

// Problem is one thing that is wrong with a mesh file, or likely a mistake in it.
type Problem struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Key      string `json:"key,omitempty"`
	Excerpt  string `json:"excerpt,omitempty"` // the line
	Width    int    `json:"width,omitempty"`   // how many columns of it are meant
}

// Done is what an act answers.
type Done struct {
	Done string `json:"done"` // in words
}

// Page sizes of lists.
const (
	DefaultPage = 1000
	MaxPage     = 5000
)
