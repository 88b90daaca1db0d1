package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// What a proxy may say of its instance, beyond where it listens: a catalog takes
// no more (Consul: 64 entries of metadata, of which some are the catalog's own).
const (
	maxTags      = 64
	maxTag       = 256
	maxMeta      = 48
	maxMetaKey   = 128
	maxMetaValue = 512
)

// Instance is what a proxy says of its instance for those who read the catalog.
// It changes nothing of the proxy's own configuration.
type Instance struct {
	Version string            // of the application
	Tags    []string          // in the proxy's order
	Meta    map[string]string // entries of its choice
	// Checks are the kinds of checks of its application that it can have made, in
	// words with commas between: an Envoy with an old bootstrap makes none.
	Checks string
}

// Instance returns what the proxy says of its instance.
func (n *Node) Instance() Instance {
	if n.instance == nil {
		return Instance{}
	}
	return *n.instance
}

// readInstance reads the metadata's "version", "checks", "tags" and "meta". The keys of
// others mean nothing here.
func (n *Node) readInstance(key string, value []byte) error {
	switch key {
	case "version", "checks", "tags", "meta":
	default:
		return nil
	}
	if n.instance == nil {
		n.instance = &Instance{}
	}
	switch key {
	case "version":
		return readScalar(value, &n.instance.Version)
	case "checks":
		return readScalar(value, &n.instance.Checks)
	case "tags":
		n.instance.Tags = nil
		return n.instance.readTags(value)
	}
	n.instance.Meta = nil
	return n.instance.readMeta(value)
}

// The kinds of a google.protobuf.Value that are read here.
const (
	structValue protowire.Number = 5
	listValue   protowire.Number = 6
)

func (i *Instance) readTags(value []byte) error {
	return eachBytes(value, func(number protowire.Number, list []byte) error {
		if number != listValue {
			return nil
		}
		return eachBytes(list, func(_ protowire.Number, item []byte) error {
			var tag string
			if err := readScalar(item, &tag); err != nil {
				return err
			}
			switch {
			case tag == "":
				return nil
			case len(tag) > maxTag:
				return tooMuch("metadata: a tag of %d bytes, more than %d", len(tag), maxTag)
			case len(i.Tags) >= maxTags:
				return tooMuch("metadata: more than %d tags", maxTags)
			}
			i.Tags = append(i.Tags, tag)
			return nil
		})
	})
}

func (i *Instance) readMeta(value []byte) error {
	return eachBytes(value, func(number protowire.Number, fields []byte) error {
		if number != structValue {
			return nil
		}
		return eachBytes(fields, func(_ protowire.Number, entry []byte) error {
			var key, text string
			if err := eachBytes(entry, func(number protowire.Number, v []byte) error {
				switch number {
				case 1:
					if len(v) > maxMetaKey {
						return tooMuch("metadata: a key of %d bytes, more than %d", len(v), maxMetaKey)
					}
					key = string(v)
				case 2:
					return readBounded(v, &text, maxMetaValue)
				}
				return nil
			}); err != nil {
				return fmt.Errorf("meta: %w", err)
			}
			if key == "" {
				return nil
			}
			if i.Meta == nil {
				i.Meta = make(map[string]string)
			}
			if i.Meta[key] = text; len(i.Meta) > maxMeta {
				return tooMuch("metadata: more than %d entries of meta", maxMeta)
			}
			return nil
		})
	})
}
