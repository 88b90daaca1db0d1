package bootstrap

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/identity"
)

// maxSocketPath is the longest path of a Unix socket on Linux, without its
// final zero byte.
const maxSocketPath = 107

// What an instance may be registered with.
const (
	maxTags, maxTag                   = 64, 256
	maxMeta, maxMetaKey, maxMetaValue = 48, 128, 512
)

// address is where a control plane listens.
type address struct {
	host   string // IP or name; empty: a Unix socket
	port   uint16
	socket string
	isName bool
}

// check reports everything that is wrong at once, and completes the options.
func (o *Options) check() ([]address, error) {
	var errs []error
	if err := checkService(o.Service); err != nil {
		errs = append(errs, err)
	}
	if o.NodeID == "" {
		errs = append(errs, errors.New("the node id is empty"))
	}
	errs = append(errs, o.checkPorts()...)
	errs = append(errs, o.checkLabels()...)
	if err := checkSocket(o.AdminSocket); err != nil {
		errs = append(errs, fmt.Errorf("admin socket: %w", err))
	}
	addresses, err := parseAddresses(o.XDSAddresses)
	if err != nil {
		errs = append(errs, err)
	}
	named := slices.ContainsFunc(addresses, func(a address) bool { return a.isName })
	if named && slices.ContainsFunc(addresses, func(a address) bool { return a.socket != "" }) {
		errs = append(errs, errors.New("xDS addresses: Envoy cannot have host names and Unix sockets in one cluster"))
	}
	errs = append(errs, o.checkTrust(addresses)...)
	return addresses, errors.Join(errs...)
}

func checkService(name string) error {
	if err := spiffeid.ValidatePathSegment(name); err != nil {
		return fmt.Errorf("service %q is no SPIFFE path segment: %w", name, err)
	}
	if name == resource.ControlPlane {
		return fmt.Errorf("service name %q is reserved", name)
	}
	return nil
}

// reservedMeta are the keys of an instance's metadata that the mesh writes.
var reservedMeta = []string{"mesh_port", "version", "zone", "managed-by", "owner", "owned-since"}

// checkLabels checks tags and metadata.
func (o *Options) checkLabels() []error {
	var errs []error
	if len(o.Tags) > maxTags || len(o.Meta) > maxMeta {
		errs = append(errs, fmt.Errorf("%d tags and %d keys of metadata, the limits are %d and %d", len(o.Tags), len(o.Meta), maxTags, maxMeta))
	}
	for _, tag := range o.Tags {
		if tag == "" || len(tag) > maxTag || !printable(tag) {
			errs = append(errs, fmt.Errorf("tag %.100q: want 1 to %d bytes of text", tag, maxTag))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.Meta)) {
		switch value := o.Meta[key]; {
		case key == "" || len(key) > maxMetaKey || strings.ContainsFunc(key, notInMetaKey):
			errs = append(errs, fmt.Errorf("metadata key %.100q: want letters, digits, _ and -", key))
		case slices.Contains(reservedMeta, key):
			errs = append(errs, fmt.Errorf("metadata key %q is the mesh's own", key))
		case len(value) > maxMetaValue || !printable(value):
			errs = append(errs, fmt.Errorf("metadata of the key %q: want at most %d bytes of text", key, maxMetaValue))
		}
	}
	return errs
}

func notInMetaKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (o *Options) checkPorts() []error {
	var errs []error
	if o.AppPort == 0 {
		errs = append(errs, errors.New("the app port is 0"))
	}
	if o.MeshPort == 0 {
		errs = append(errs, errors.New("the mesh port is 0"))
	}
	outside := netip.IPv6Unspecified()
	if o.Address != "" {
		ip, err := netip.ParseAddr(o.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("address %q is no IP", o.Address))
			return errs
		}
		outside = ip
	}
	inside := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	app := inside
	if o.AppAddress != "" {
		ip, err := netip.ParseAddr(o.AppAddress)
		if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
			errs = append(errs, fmt.Errorf("app address %q is no IP that the application can be reached at", o.AppAddress))
			return errs
		}
		app = ip
	}
	ports := []struct {
		name string
		ip   netip.Addr
		port uint16
	}{
		{"app", app, o.AppPort},
		{"outbound", inside, o.OutboundPort},
		{"mesh", outside, o.MeshPort},
		{"metrics", outside, o.MetricsPort},
	}
	for i, a := range ports {
		for _, b := range ports[:i] {
			if a.port == b.port && a.port != 0 && (a.ip == b.ip || a.ip.IsUnspecified() || b.ip.IsUnspecified()) {
				errs = append(errs, fmt.Errorf("the %s port and the %s port are both %d", b.name, a.name, a.port))
			}
		}
	}
	return errs
}

func checkSocket(path string) error {
	switch {
	case path == "":
		return errors.New("no path")
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("%q has %d bytes, a Unix socket's path has at most %d", path, len(path), maxSocketPath)
	}
	return nil
}

// checkPlaintext refuses a stream that anybody could read or answer, except
// where nobody else can be: on this machine.
func checkPlaintext(addresses []address) []error {
	var errs []error
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a.host); a.socket == "" && (err != nil || !ip.IsLoopback()) {
			errs = append(errs, fmt.Errorf("plaintext to %s: only loopback addresses and Unix sockets are allowed", net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))))
		}
	}
	return errs
}

// checkTrust checks what the stream is protected by.
func (o *Options) checkTrust(addresses []address) []error {
	if o.Plaintext {
		var errs []error
		if len(o.CAPEM) > 0 || o.TrustDomain != "" || o.TokenFile != "" {
			errs = append(errs, errors.New("plaintext excludes a CA and a token: they would protect nothing"))
		}
		return append(errs, checkPlaintext(addresses)...)
	}
	var errs []error
	if o.TokenFile == "" {
		errs = append(errs, errors.New("no token file"))
	} else if !filepath.IsAbs(o.TokenFile) {
		errs = append(errs, fmt.Errorf("token file %q is not an absolute path", o.TokenFile))
	}
	if err := checkCertificates(o.CAPEM); err != nil {
		return append(errs, fmt.Errorf("CA: %w", err))
	}
	if o.TrustDomain == "" {
		td, err := identity.TrustDomainOf(o.CAPEM)
		if err != nil {
			return append(errs, fmt.Errorf("CA: %w", err))
		}
		o.TrustDomain = td.Name()
	} else if _, err := spiffeid.TrustDomainFromString(o.TrustDomain); err != nil {
		errs = append(errs, fmt.Errorf("trust domain %q: %w", o.TrustDomain, err))
	}
	return errs
}

// checkCertificates accepts PEM certificates and nothing else: a bootstrap is
// not a place for a key.
func checkCertificates(data []byte) error {
	n := 0
	for rest := data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(strings.TrimSpace(string(rest))) > 0 {
				return errors.New("not PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block %q, want certificates", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
	if n == 0 {
		return errors.New("no certificate")
	}
	return nil
}

func parseAddresses(list []string) ([]address, error) {
	if len(list) == 0 {
		return nil, errors.New("no xDS address")
	}
	var out []address
	var errs []error
	for _, s := range list {
		a, err := parseAddress(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("xDS address %q: %w", s, err))
			continue
		}
		out = append(out, a)
	}
	return out, errors.Join(errs...)
}

func parseAddress(s string) (address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//") // gRPC's other spelling
		return address{socket: path}, checkSocket(path)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return address{}, errors.New("want HOST:PORT or unix:PATH")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return address{}, fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if host == "" {
		return address{}, errors.New("no host")
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.IsUnspecified() {
		return address{}, errors.New("that is where a server listens, not where one connects to")
	}
	return address{host: host, port: uint16(n), isName: err != nil}, nil
}
