// Package register puts the proxies that are connected into the catalog, and
// takes them out when they are gone. It owns which of them are in Consul, by whom,
// and how they leave; it knows none of Envoy's messages, and is told who is
// connected.
//
// Each proxy is an external node of its own in Consul, written by transactions
// that compare and set, and that are fenced by the session of this replica: a
// replica that Consul does not hear from writes nothing, and so removes nobody.
// There is no TTL and no agent, so there is no heartbeat that could stop, and in
// the steady state nothing is written at all.
//
// What is to be done about one proxy is decided by a [machine], a function of what
// it was told and of the time. The edges ask Consul, dial and wait.
//
//	NEW        connected; its mesh_port has not answered yet
//	CLAIM      is being written, with this replica as its owner
//	HELD       is as it should be; nothing is written any more
//	FOREIGN    somebody else has made such an entry: it is never touched
//	LOST       its stream has ended, a while ago; or its owner is gone
//	UNCLAIMED  no replica has its stream, and its mesh_port answers: it stays
//	DRAIN      is in maintenance: takes no new calls
//	DELETE     is being removed
package register
