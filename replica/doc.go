// Package replica is how several control planes that serve one fleet know of each
// other: who lives, which of them leads, and the little that they share. All of it
// lies in Consul's KV, below controlplane/MESH/fleet/:
//
//	members/NAME  what a replica says of itself; gone with its session
//	leader        a lock, for what must happen once
//	stages        how far mTLS is between off and on
//	pin           which revision of the mesh file all serve, by an operator's word
//
// The text of a pinned revision is beside them, at controlplane/MESH/revisions/REVISION.
//
// No push needs any of it. Without Consul each replica goes on with what it has last
// seen, and starts nothing new.
//
// What the leader writes is one transaction with a check of its session, and compares
// the index of what it was based on. A leader that was paused for a minute, and does
// not know that another one leads, has its write refused. What any replica may write, a
// pin, is checked by that replica's own session.
package replica
