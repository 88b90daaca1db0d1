package wire

import (
	"errors"
	"fmt"
)

// What stands inside of a client's messages is bounded where it comes in, before
// anything is copied. A delta client that comes back names each resource with its
// version: 50,000 of them are 6 MB, half of the names and within a message.
const (
	// MaxNames and MaxNameBytes bound each list of names in a request, and the names
	// that a stream has of all types.
	MaxNames     = 100_000
	MaxNameBytes = 8 << 20
	// maxReportedBytes bounds initial_resource_versions, names and versions. What
	// comes over gRPC is bounded by the size of a message before.
	maxReportedBytes = 16 << 20

	maxName    = 2048 // the longest name is a SPIFFE ID
	maxVersion = 256  // of a resource or a type, and a nonce: ours have at most 70
	maxTypeURL = 256

	maxNodeID   = 256     // as in a token
	maxCluster  = maxName // a segment of a SPIFFE ID
	maxZone     = 256
	maxMetadata = 64 << 10 // ours takes about 200
	maxAgent    = 128      // what is longer is cut

	// maxFailure is where the text of an error is cut. Envoy sends no more.
	maxFailure = 4096
)

// ErrTooMuch is why a request over one of the bounds is refused.
var ErrTooMuch = errors.New("too much")

func tooMuch(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTooMuch, fmt.Sprintf(format, args...))
}

// bounded returns a field of a request as a string, if it is not too long.
func bounded(field string, v []byte, limit int) (string, error) {
	if len(v) > limit {
		return "", tooMuch("%s of %d bytes, more than %d", field, len(v), limit)
	}
	return string(v), nil
}

// Count is how many names there are, and of how many bytes.
type Count struct{ Names, Bytes int }

// add counts a name of a request, and refuses what no client needs.
func (c *Count) add(name []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	c.Names++
	c.Bytes += len(name)
	return c.Within(MaxNames, MaxNameBytes)
}

func checkName(name []byte) error {
	switch {
	case len(name) == 0:
		return errors.New("an empty name")
	case len(name) > maxName:
		return tooMuch("a name of %d bytes, more than %d", len(name), maxName)
	}
	return nil
}

// Within returns [ErrTooMuch] if there are more.
func (c Count) Within(names, bytes int) error {
	if c.Names > names {
		return tooMuch("more than %d names", names)
	}
	if c.Bytes > bytes {
		return tooMuch("names of more than %d bytes", bytes)
	}
	return nil
}
