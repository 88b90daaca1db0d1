package translate

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/resource"
)

// compiler turns settings into Envoy's messages for one translation. It
// remembers the parts that many resources share, so that ten thousand clusters
// with the same limits encode those limits once.
type compiler struct {
	*globals
	traced bool // there is a cluster for spans
	parts  map[any]any
}

func newCompiler(g *globals) *compiler {
	return &compiler{globals: g, parts: make(map[any]any)}
}

// part returns what make returned for an equal key. The key's type tells the
// concepts apart, so each concept has a key type of its own.
func part[K comparable, V any](c *compiler, key K, make func() V) V {
	if v, ok := c.parts[key]; ok {
		return v.(V)
	}
	v := make()
	c.parts[key] = v
	return v
}

// message is a generated message with the constraints of its proto.
type message interface {
	proto.Message
	ValidateAll() error
}

// builder is one resource in the making. It collects everything that is wrong
// with it, so that the operator hears all of it at once.
type builder struct {
	errs []error
}

// failf records a defect.
func (d *builder) failf(format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf(format, args...))
}

// pack encodes m as an Any. ValidateAll of the message around it never looks
// inside an Any, so its constraints are checked here.
func (d *builder) pack(m message) *anypb.Any {
	if err := m.ValidateAll(); err != nil {
		d.errs = append(d.errs, err)
	}
	body, err := encode(m)
	if err != nil {
		d.errs = append(d.errs, err)
		return nil
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}
}

// finish checks and encodes the resource. It is nil and an error if anything
// is wrong.
func (d *builder) finish(t resource.Type, name string, m message, keys []string, refs []resource.Ref) (*resource.Resource, error) {
	if err := m.ValidateAll(); err != nil {
		d.errs = append(d.errs, err)
	}
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	body, err := encode(m)
	if err != nil {
		return nil, err
	}
	return resource.New(t, name, body, keys, refs), nil
}

// encode gives equal messages equal bytes, on every replica of one build.
func encode(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
func u32(v uint32) *wrapperspb.UInt32Value          { return wrapperspb.UInt32(v) }
func boolean(v bool) *wrapperspb.BoolValue          { return wrapperspb.Bool(v) }

type wrappedUint32 = wrapperspb.UInt32Value
