package register

import "context"

// store is the catalog that is written to. A call may take long, and any number
// are made at a time.
type store interface {
	// run keeps the session of this replica until ctx ends, and says when it has
	// one, when it has none and why, and whether it is the one that sweeps.
	run(ctx context.Context, on sessionEvents)
	// release gives the session up.
	release(ctx context.Context)
	// write makes changes, and returns an outcome for each.
	write(ctx context.Context, changes []change) []outcome
	// read returns what the catalog has of services.
	read(ctx context.Context, services []string) (picture, error)
	// readNode returns what one node is.
	readNode(ctx context.Context, node, id string) nodeState
	// look returns what services of ours there are and who is alive, and a stamp that
	// has changed if anything in the catalog may have.
	look(ctx context.Context) (look, error)
}

type look struct {
	stamp    string
	services []string
	alive    map[string]struct{}
}

// sessionEvents are what a store says of its session.
type sessionEvents struct {
	up      func()
	down    func(why error)
	leading func(bool)
}
