package control

import (
	"errors"
	"fmt"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
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

// acceptRoot says whether a process with these roots, which are empty where xDS is plaintext,
// can go on with the mesh file m.
func acceptRoot(m *policy.Mesh, roots []byte) error {
	want, err := expectedRoot(nil, m)
	if err != nil || want == nil || len(roots) == 0 {
		return err
	}
	have := identity.HashRoots(roots)
	if len(have) > 0 && !slices.Contains(have, *want) {
		return fmt.Errorf("security.mtls.root is %s, and this control plane has the root %s, which every certificate in use comes from", want, have[0])
	}
	return nil
}

// acceptCA says whether a process that has opened an authority can go on with the mesh
// file m.
func acceptCA(m *policy.Mesh, opened policy.CA) error {
	if m.MTLS.CA == opened {
		return nil
	}
	return fmt.Errorf("%s: security.mtls.ca is %s, and this control plane has the authority of %s: where it is changes at a restart, "+
		"which goes on with the same root alone; another one comes by controlplane roots", m.Source("security.mtls.ca"), described(m.MTLS.CA), described(opened))
}

func described(ca policy.CA) string {
	if ca.CertFile == "" {
		return "the data directory"
	}
	return fmt.Sprintf("provider %s, %s and %s", ca.Provider, ca.CertFile, ca.KeyFile)
}

// filesOf is where the mesh file has the authority.
func filesOf(ca policy.CA) sds.Files {
	return sds.Files{Cert: ca.CertFile, Key: ca.KeyFile, Operators: ca.Provider == policy.CAFiles}
}

// expectedRoot is the one authority that the process may have, as its flag and the mesh
// file say; nil: any.
func expectedRoot(flag *identity.RootHash, m *policy.Mesh) (*identity.RootHash, error) {
	if m.MTLS.Root == "" {
		return flag, nil
	}
	want, err := identity.ParseRootHash(m.MTLS.Root)
	if err != nil {
		return nil, fmt.Errorf("security.mtls.root: %w", err)
	}
	if flag != nil && *flag != want {
		return nil, fmt.Errorf("security.mtls.root is %s, and --expect-root is %s", want, flag)
	}
	return &want, nil
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
