package api

import "time"

// Proxies are those of all replicas, ordered by node.
type Proxies struct {
	Proxies []Proxy `json:"proxies"`
	// Unanswered are the replicas whose proxies are not among them.
	Unanswered []Unanswered `json:"unanswered,omitempty"`
	// Next is what to ask for `after` to have the next page; empty: this is the last one.
	Next string `json:"next,omitempty"`
}

// Unanswered is a replica that was asked for its proxies, and did not answer.
type Unanswered struct {
	Replica string `json:"replica"`
	Why     string `json:"why"`
}

// State says whether a proxy has the configuration that it should have.
type State string

// The states of a type of resources on a proxy.
const (
	NotSent  State = "NOT_SENT" // the proxy has not asked, or there was nothing to send
	Pending  State = "PENDING"  // sent and not acknowledged, or waiting to be sent
	Synced   State = "SYNCED"
	Rejected State = "REJECTED" // the proxy refuses a resource and works with the one before
)

// Proxy is what is known of one connected proxy.
type Proxy struct {
	Node      string    `json:"node"`
	Service   string    `json:"service"`
	Peer      string    `json:"peer"` // the address of its connection
	Agent     string    `json:"agent,omitempty"`
	Version   string    `json:"version,omitempty"` // of the agent
	Protocol  string    `json:"protocol"`          // delta or sotw
	Connected time.Time `json:"connected"`
	// Replica is the control plane that it is connected to, where there are several.
	Replica string `json:"replica,omitempty"`

	// Missing says what its configuration lacks for want of metadata.
	Missing []string `json:"missing,omitempty"`
	// Roots are those whose control planes it accepts, as its bootstrap says: the first 8
	// bytes of their hashes.
	Roots []string `json:"roots,omitempty"`
	// Types is keyed by the name of a type of resources.
	Types       map[string]TypeStatus `json:"types"`
	Certificate *ProxyCertificate     `json:"certificate,omitempty"`
	Profile     Profile               `json:"profile"`
}

// State is the worst state of its types.
func (p *Proxy) State() State {
	worst := NotSent
	rank := map[State]int{NotSent: 0, Synced: 1, Pending: 2, Rejected: 3}
	for _, t := range p.Types {
		if rank[t.State] > rank[worst] {
			worst = t.State
		}
	}
	return worst
}

// Profile is what a proxy says of itself, in the words of the bootstrap's metadata.
type Profile struct {
	Kind         string `json:"kind"`
	Address      string `json:"address,omitempty"`
	Zone         string `json:"zone,omitempty"`
	AppAddress   string `json:"app_address,omitempty"`
	AppPort      uint16 `json:"app_port,omitempty"`
	MeshPort     uint16 `json:"mesh_port,omitempty"`
	OutboundPort uint16 `json:"outbound_port,omitempty"`
	MetricsPort  uint16 `json:"metrics_port,omitempty"`
}

// TypeStatus is the state of one type of resources on a proxy.
type TypeStatus struct {
	State        State  `json:"state"`
	Sent         string `json:"version_sent,omitempty"`
	Acknowledged string `json:"version_acknowledged,omitempty"`
	LastNack     *Nack  `json:"last_nack,omitempty"`
	// Quarantined are contents that the proxy would have, had others not refused them.
	Quarantined []Quarantined `json:"quarantined,omitempty"`
}

// Nack is one response that a proxy refused.
type Nack struct {
	Time      time.Time `json:"time"`
	Type      string    `json:"type"`
	Nonce     string    `json:"nonce"`
	Version   string    `json:"version"`
	Message   string    `json:"message"`
	Resources []string  `json:"resources"`
	More      int       `json:"more_resources,omitempty"`
	// Resource is the one that was refused, and Source the place in the mesh file that
	// made it; empty while that is not certain.
	Resource string `json:"resource,omitempty"`
	Source   string `json:"source,omitempty"`
	// Cause is what on the proxy's own machine or in its build made it refuse.
	Cause string `json:"cause,omitempty"`
}

// Quarantined is a content that is not served because several proxies refused it.
type Quarantined struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Source  string    `json:"source,omitempty"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// ProxyCertificate is the certificate that a proxy was sent. Serial and Expires are
// unknown for one that it kept from an earlier stream.
type ProxyCertificate struct {
	Version string     `json:"version"`
	Serial  string     `json:"serial,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
}
