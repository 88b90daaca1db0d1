package policy

// Redundancy is a policy without effect: another one of its action does all that it
// does.
type Redundancy struct {
	Name, Key string
	Action    Action
	By        string // the other's name
}

// Redundant returns the policies that decide nothing which another one of the same
// action does not decide alike. Of two that are the same it is the later one.
func (m *Mesh) Redundant() []Redundancy {
	var all []Redundancy
	budget := maxComparisons
	for _, action := range []Action{Deny, Allow} {
		policies := m.enforced(action)
		for i, p := range policies {
			for j, q := range policies {
				if budget--; budget < 0 {
					return all
				}
				if i == j || !policyWithin(p, m.MTLS.TrustDomain, q, m.MTLS.TrustDomain) {
					continue
				}
				if j > i && policyWithin(q, m.MTLS.TrustDomain, p, m.MTLS.TrustDomain) {
					continue // the same: the later one is without effect
				}
				all = append(all, Redundancy{p.Name, p.Key, action, q.Name})
				break
			}
		}
	}
	return all
}
