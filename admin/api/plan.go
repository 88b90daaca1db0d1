package api

// PlanRequest is a mesh file to be planned: one or several that are merged in order.
type PlanRequest struct {
	Files []File `json:"files"`
}

// Plan is what an edit of the mesh file would do to the fleet that is connected.
type Plan struct {
	From      string           `json:"from"` // revisions of the mesh files
	To        string           `json:"to"`
	Proxies   []ProxyChange    `json:"proxies"`
	Resources []ResourceChange `json:"resources"`
	Drains    []Drain          `json:"drains"`
	Edges     []EdgeChange     `json:"edges"`
	Held      []string         `json:"held,omitempty"` // resources that could not be made
	// Waits says why the edit would have to wait when it comes.
	Waits string `json:"waits,omitempty"`
	// Warnings are those of the file.
	Warnings []Problem `json:"warnings,omitempty"`
}

// ProxyChange is what differs for the proxies of one service that are alike.
type ProxyChange struct {
	Service   string `json:"service"`
	Address   string `json:"address,omitempty"`
	MeshPort  uint16 `json:"mesh_port,omitempty"`
	Resources []int  `json:"resources"` // places in the list of resources
}

// ResourceChange is a resource that some proxies would have instead of another one.
type ResourceChange struct {
	Type    string        `json:"type"`
	Name    string        `json:"name"`
	What    string        `json:"what"`    // added, removed or changed
	Proxies int           `json:"proxies"` // how many kinds of proxies
	Fields  []FieldChange `json:"fields,omitempty"`
	Source  string        `json:"source,omitempty"` // the line that it comes from
	// Uncompared says that the fields were not looked at: so many resources of its type
	// and name change that those of the first ones tell.
	Uncompared bool `json:"uncompared,omitempty"`
}

// FieldChange is a field of a resource that differs. What is not there is empty.
type FieldChange struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Drain is a listener whose connections end.
type Drain struct {
	Service  string `json:"service"`
	Address  string `json:"address,omitempty"`
	Listener string `json:"listener"`
	Why      string `json:"why"`
}

// EdgeChange is who may call a service otherwise than before.
type EdgeChange struct {
	Callee  string   `json:"callee"`
	From    string   `json:"from"` // closed, by conditions, or open
	To      string   `json:"to"`
	Callers []string `json:"callers"`
}
