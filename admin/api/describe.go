package api

// Description is what is in force of a service, a proxy or a policy, and where each part
// of it came from. Source is a place of the mesh file, FILE:LINE:COL.
type Description struct {
	Kind   string `json:"kind"` // service, proxy or policy
	Name   string `json:"name"`
	Source string `json:"source,omitempty"`
	// Settings are those of a service, the conditions of a policy, or what a proxy says of
	// itself.
	Settings []Setting `json:"settings,omitempty"`
	// Routes are what the mesh file says of requests to a service; the first that matches
	// decides.
	Routes []NamedSource `json:"routes,omitempty"`
	// Policies act on the calls to a service, or to that of a proxy.
	Policies []PolicyInForce `json:"policies,omitempty"`
	// Admits is who may call a service, by the rules that its proxies are served.
	Admits []Admitted `json:"admits,omitempty"`
	// Instances are those that the catalog has of a service.
	Instances []InstanceInForce `json:"instances,omitempty"`
	// Listeners are a proxy's, and Missing is what it has not, for want of metadata.
	Listeners []Listener `json:"listeners,omitempty"`
	Missing   []string   `json:"missing,omitempty"`
	// Services are those on whose calls a policy acts, and Callers those that it is about.
	Services []string `json:"services,omitempty"`
	Callers  []string `json:"callers,omitempty"`
}

// Setting is a key and its value, as a mesh file would have it.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	From   string `json:"from,omitempty"` // the key that it came from; empty: built in
	Source string `json:"source,omitempty"`
}

// NamedSource is something that the mesh file names.
type NamedSource struct {
	Name   string `json:"name"`
	Source string `json:"source,omitempty"`
}

// PolicyInForce is one authorization policy.
type PolicyInForce struct {
	Name   string `json:"name"`
	Action string `json:"action"`
	Shadow bool   `json:"shadow,omitempty"` // it decides nothing
	Source string `json:"source,omitempty"`
}

// Admitted are callers of which the same becomes: open, by conditions, closed.
type Admitted struct {
	Answer  string   `json:"answer"`
	Callers []string `json:"callers"`
}

// InstanceInForce is an instance of the catalog.
type InstanceInForce struct {
	ID      string `json:"id"`
	Address string `json:"address,omitempty"` // where its callers dial it
	Health  string `json:"health,omitempty"`
	LeftOut string `json:"left_out,omitempty"` // why it is not called
}

// Listener is where a proxy listens.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Source  string `json:"source,omitempty"`
}
