package translate

import (
	"bytes"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// service is one service of the mesh, with all that is made of it alone. The
// resources are the same in every view.
type service struct {
	settings *policy.Service
	entry    *watch.Service // the catalog's; nil if it has none

	cluster   *resource.Resource // nil if it could not be made, ever
	endpoints *resource.Resource
	host      []byte // of the outbound route configuration; nil: not HTTP
	routeKeys []string
	held      []Held
	left      []string // notes about instances left out
}

// change is one service before and after; either may be nil.
type change struct{ before, after *service }

func (s *service) clusterOrNil() *resource.Resource {
	if s == nil {
		return nil
	}
	return s.cluster
}

// routed is the virtual host that route configurations may hold: without a
// cluster it would lead nowhere.
func (s *service) routed() []byte {
	if s == nil || s.cluster == nil {
		return nil
	}
	return s.host
}

// reroutes reports whether an outbound route configuration that has the
// service must be made again, be it only for where it comes from.
func (c change) reroutes() bool {
	before, after := c.before.routed(), c.after.routed()
	return !bytes.Equal(before, after) || (after != nil && !slices.Equal(c.before.routeKeys, c.after.routeKeys))
}

func (s *service) makeCluster(c *compiler, before *service) {
	made, err := serviceCluster(c, s.settings)
	if err != nil {
		s.held = append(s.held, Held{Type: resource.Cluster, Name: s.settings.Name, Keys: clusterKeys(s.settings), Cause: err.Error()})
		s.cluster = before.cluster
		return
	}
	s.cluster = made
}

func (s *service) makeHost(before *service) {
	s.routeKeys = s.settings.Keys(policy.SettingRetry, policy.SettingTimeout, policy.SettingLoadBalancing, policy.SettingProtocol)
	made, err := outboundHost(s.settings)
	if err != nil {
		s.held = append(s.held, Held{Type: resource.Route, Name: routeOutbound, Keys: s.routeKeys, Cause: s.settings.Name + ": " + err.Error()})
		s.host = before.host
		return
	}
	s.host = made
}
