package wire

import (
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"datapunk.dev/controlplane/resource"
)

// Field numbers of envoy.service.discovery.v3.DiscoveryResponse,
// DeltaDiscoveryResponse and Resource, and of google.protobuf.Any.
const (
	responseVersion   = 1 // version_info, system_version_info
	responseResources = 2 // of Any in SotW, of Resource in delta
	responseTypeURL   = 4
	responseNonce     = 5
	responseRemoved   = 6 // removed_resources, delta only

	resourceVersion = 1
	resourceBody    = 2
	resourceName    = 3

	anyTypeURL = 1
	anyValue   = 2
)

// copyBelow is the size in bytes of a resource's body up to which copying it
// into the response is cheaper than carrying it as a piece of its own.
const copyBelow = 1 << 10

// Payload is what a response holds, encoded, but for its version and nonce. It is
// immutable: clients in the same state are sent the same. Bodies that are large are
// not copied: all payloads that have the resource share its bytes.
type Payload struct {
	data mem.BufferSlice
	size int
}

// Response is one encoded response.
type Response struct {
	data mem.BufferSlice
	size int
}

// Size returns its length in bytes.
func (r *Response) Size() int { return r.size }

// IsEmpty reports whether nothing was encoded.
func (p Payload) IsEmpty() bool { return len(p.data) == 0 }

// Join returns one payload of two of the same type, which says the type twice;
// protobuf allows that.
func (p Payload) Join(o Payload) Payload {
	return Payload{data: slices.Concat(p.data, o.data), size: p.size + o.size}
}

// Response returns the response with the payload. The order of fields is free in
// protobuf, so what differs between streams comes last.
func (p Payload) Response(version []byte, nonce string) *Response {
	tail := make([]byte, 0, protowire.SizeTag(responseVersion)+protowire.SizeBytes(len(version))+stringSize(responseNonce, nonce))
	tail = protowire.AppendTag(tail, responseVersion, protowire.BytesType)
	tail = protowire.AppendBytes(tail, version)
	tail = appendString(tail, responseNonce, nonce)
	data := make(mem.BufferSlice, len(p.data)+1)
	copy(data, p.data)
	data[len(p.data)] = mem.SliceBuffer(tail)
	return &Response{data: data, size: p.size + len(tail)}
}

// Encode encodes the type, the resources and the removed names of a response.
func Encode(protocol Protocol, t resource.Type, resources []*resource.Resource, removed []string) (p Payload) {
	url := t.URL()
	own, shared := stringSize(responseTypeURL, url), 0
	for _, r := range resources {
		own += headSize(protocol, url, r)
		if len(r.Body) > copyBelow {
			shared++
		} else {
			own += len(r.Body)
		}
	}
	for _, name := range removed {
		own += stringSize(responseRemoved, name)
	}

	b := make([]byte, 0, own)
	pieces := make([]mem.SliceBuffer, 0, 2*shared+1)
	cut := 0
	for _, r := range resources {
		b = appendHead(b, protocol, url, r)
		if len(r.Body) <= copyBelow {
			b = append(b, r.Body...)
			continue
		}
		pieces = append(pieces, b[cut:], r.Body)
		p.size += len(r.Body)
		cut = len(b)
	}
	for _, name := range removed {
		b = appendString(b, responseRemoved, name)
	}
	b = appendString(b, responseTypeURL, url)
	pieces = append(pieces, b[cut:])
	p.data = make(mem.BufferSlice, len(pieces))
	for i := range pieces {
		p.data[i] = &pieces[i]
	}
	p.size += len(b)
	return p
}

// anySize and entrySize are the lengths of the Any of a resource and of the
// Resource message around it.
func anySize(url string, r *resource.Resource) int {
	return stringSize(anyTypeURL, url) + protowire.SizeTag(anyValue) + protowire.SizeBytes(len(r.Body))
}

func entrySize(url string, r *resource.Resource) int {
	return stringSize(resourceName, r.Name) + stringSize(resourceVersion, r.Version) +
		protowire.SizeTag(resourceBody) + protowire.SizeBytes(anySize(url, r))
}

// headSize is the length of all that precedes the body of a resource in a
// response.
func headSize(p Protocol, url string, r *resource.Resource) int {
	whole := anySize(url, r)
	if p == Delta {
		whole = entrySize(url, r)
	}
	return protowire.SizeTag(responseResources) + protowire.SizeBytes(whole) - len(r.Body)
}

func appendHead(b []byte, p Protocol, url string, r *resource.Resource) []byte {
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	if p == Delta {
		b = protowire.AppendVarint(b, uint64(entrySize(url, r)))
		b = appendString(b, resourceName, r.Name)
		b = appendString(b, resourceVersion, r.Version)
		b = protowire.AppendTag(b, resourceBody, protowire.BytesType)
	}
	b = protowire.AppendVarint(b, uint64(anySize(url, r)))
	b = appendString(b, anyTypeURL, url)
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(r.Body)))
}

func stringSize(field protowire.Number, v string) int {
	if v == "" {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeBytes(len(v))
}

func appendString(b []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, v)
}

// OnlyName is an encoded resource that has a name and nothing else: of assignments and
// route configurations it is the first field.
func OnlyName(name string) []byte {
	const field = 1
	return protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), name)
}
