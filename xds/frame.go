package xds

import (
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
// into the frame is cheaper than carrying it as a piece of its own.
const copyBelow = 1 << 10

// frame is one encoded response. Bodies that are large are not copied: all
// streams that send the resource share its bytes.
type frame struct {
	data mem.BufferSlice
	size int
}

// newFrame encodes a response.
func newFrame(p protocol, t resource.Type, version, nonce string, resources []*resource.Resource, removed []string) *frame {
	data, size := encodeResponse(p, t, version, nonce, resources, removed)
	return &frame{data: data, size: size}
}

// frame returns the frame of a shared parcel.
func (p *parcel) frame(nonce string) *frame {
	tail := appendString(make([]byte, 0, stringSize(responseNonce, nonce)), responseNonce, nonce)
	data := make(mem.BufferSlice, len(p.head)+1)
	copy(data, p.head)
	data[len(p.head)] = mem.SliceBuffer(tail)
	return &frame{data: data, size: p.size + len(tail)}
}

// encodeResponse encodes a response. The field order is free in protobuf, so what
// differs between streams, the nonce, comes last.
func encodeResponse(p protocol, t resource.Type, version, nonce string, resources []*resource.Resource, removed []string) (mem.BufferSlice, int) {
	url := t.URL()
	own, shared := 0, 0
	for _, r := range resources {
		own += headSize(p, url, r)
		if len(r.Body) > copyBelow {
			shared++
		} else {
			own += len(r.Body)
		}
	}
	own += stringSize(responseVersion, version) + stringSize(responseTypeURL, url) + stringSize(responseNonce, nonce)
	for _, name := range removed {
		own += stringSize(responseRemoved, name)
	}

	b := make([]byte, 0, own)
	pieces := make([]mem.SliceBuffer, 0, 2*shared+1)
	size, cut := 0, 0
	for _, r := range resources {
		b = appendHead(b, p, url, r)
		if len(r.Body) <= copyBelow {
			b = append(b, r.Body...)
			continue
		}
		pieces = append(pieces, b[cut:], r.Body)
		size += len(r.Body)
		cut = len(b)
	}
	b = appendString(b, responseVersion, version)
	b = appendString(b, responseTypeURL, url)
	for _, name := range removed {
		b = appendString(b, responseRemoved, name)
	}
	b = appendString(b, responseNonce, nonce)
	pieces = append(pieces, b[cut:])

	data := make(mem.BufferSlice, len(pieces))
	for i := range pieces {
		data[i] = &pieces[i]
	}
	return data, size + len(b)
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
func headSize(p protocol, url string, r *resource.Resource) int {
	whole := anySize(url, r)
	if p == delta {
		whole = entrySize(url, r)
	}
	return protowire.SizeTag(responseResources) + protowire.SizeBytes(whole) - len(r.Body)
}

func appendHead(b []byte, p protocol, url string, r *resource.Resource) []byte {
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	if p == delta {
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
