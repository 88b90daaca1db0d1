package api

// Checks are what the control plane needs, each looked at.
type Checks struct {
	Checks []Check `json:"checks"`
}

// Check is one of them.
type Check struct {
	Name    string      `json:"name"`
	Result  CheckResult `json:"result"`
	Message string      `json:"message"`
	Hint    string      `json:"hint,omitempty"` // what to do
	Page    string      `json:"page,omitempty"` // of the documentation
}

// CheckResult is what a check came to.
type CheckResult string

// The results of a check.
const (
	OK      CheckResult = "OK"
	Warning CheckResult = "WARNING"
	Failed  CheckResult = "FAILED"
)

// Findings are what is likely a mistake in the mesh file in force, beside the catalog and
// the fleet.
type Findings struct {
	Findings []Problem `json:"findings"`
}
