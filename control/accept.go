package control

import (
	"errors"
	"fmt"

	"datapunk.dev/controlplane/policy"
)

// accept says whether a process that runs can go on with the mesh file m.
// trustDomain is the authority's; plaintext is how the xDS port speaks.
func accept(m *policy.Mesh, trustDomain string, plaintext bool) error {
	if plaintext && m.MTLS.Enabled {
		return errors.New("security.mtls.enabled is true, and --xds-plaintext sends no private keys: " +
			"the Envoys would wait for a certificate for ever; serve xDS with TLS, or turn mTLS off")
	}
	if !plaintext && m.MTLS.TrustDomain != trustDomain {
		return fmt.Errorf("the trust domain would change from %q to %q, and every certificate in use belongs to the old one: "+
			"start a control plane with a data directory of its own for the new one", trustDomain, m.MTLS.TrustDomain)
	}
	return nil
}

// caution returns what an operator should know of the step from the last mesh
// file to the next, empty if there is nothing.
func caution(last, next *policy.Mesh) string {
	if !last.MTLS.Enabled && next.MTLS.Enabled && next.MTLS.Mode == policy.Strict {
		return "mTLS was off and is strict now: callers and instances without a sidecar are cut off; " +
			"security.mtls.mode: permissive serves them until they have one"
	}
	return ""
}
