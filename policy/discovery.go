package policy

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func (d *decoder) discovery(s *mapping, to *Discovery) {
	discoveryKeys.defaults(to)
	discoveryKeys.read(s, to)
	switch {
	case to.Method == "file" && !s.has("file"):
		s.fail(CodeMissing, "file: catalog.yaml", "file is missing")
	case to.Method != "file" && s.has("file"):
		s.keyOf("file").fail(CodeConflict, "method: file", "is only for method file")
	}
	d.consul(s.section("consul"), &to.Consul)
}

func (d *decoder) consul(s *mapping, to *Consul) {
	consulKeys.defaults(to)
	consulKeys.read(s, to)
	if !s.has("port") {
		to.Port = 8500
		if to.Scheme == "https" {
			to.Port = 8501
		}
	}
	for i, at := range to.Fallbacks {
		if _, _, err := net.SplitHostPort(at); err != nil || net.ParseIP(at) != nil {
			to.Fallbacks[i] = net.JoinHostPort(at, strconv.Itoa(int(to.Port)))
		}
	}
	switch {
	case !s.has("datacenters"):
	case to.Datacenter == "":
		s.first("datacenters").fail(CodeMissing, "datacenter: dc1", "datacenter is missing: which of them is the agent's own, or the one that is asked")
		to.Datacenters = nil
	case len(to.Followed()) == 1:
		to.Datacenters = nil
	}
	tls := s.section("tls")
	consulTLSKeys.read(tls, &to.TLS)
	if tls.present() && to.Scheme != "https" {
		s.keyOf("tls").fail(CodeConflict, "scheme: https", "is only for scheme https")
	}
	if tls.has("cert_file") != tls.has("key_file") {
		s.keyOf("tls").fail(CodeMissing, "", "cert_file and key_file stand together or not at all")
	}
	selectKeys.defaults(&to.Select)
	selectKeys.read(s.section("select"), &to.Select)
	removalsKeys.defaults(&to.Removals)
	removalsKeys.read(s.section("removals"), &to.Removals)
	d.register(s, to)
}

// register reads what is registered.
func (d *decoder) register(s *mapping, to *Consul) {
	r := s.section("register")
	registerKeys.defaults(&to.Register)
	to.Register.Enabled = r.present() || s.has("register_interval")
	registerKeys.read(r, &to.Register)
	seen := make(map[string]bool)
	for i, v := range r.items("services") {
		if i >= len(to.Register.Services) {
			break // one of them is wrong
		}
		id := to.Register.Services[i].ID
		if seen[strings.ToLower(id)] {
			v.mapping().first("id").fail(CodeConflict, "", "%q is there twice; Consul ignores the case of names", id)
		}
		seen[strings.ToLower(id)] = true
	}
	if after := "deregister_critical_service_after"; s.got(after) && !to.Register.Enabled && !r.present() {
		s.keyOf(after).fail(CodeNoEffect, "register_interval: 10s", "has no effect: nothing is registered")
	}
}

// checkRegistered reads the check of an instance that the file registers.
func checkRegistered(m *mapping, to *RegisteredService) bool {
	c := m.section("check")
	if !c.present() {
		return true
	}
	to.Check = &RegisteredCheck{Interval: 10 * time.Second, Timeout: 2 * time.Second}
	ok := registeredCheckKeys.read(c, to.Check)
	kinds := 0
	for _, kind := range []string{"http", "tcp", "grpc"} {
		if c.has(kind) {
			kinds++
		}
	}
	if kinds != 1 {
		c.fail(CodeMissing, "http: http://10.0.0.11:8080/health", "has one of http, tcp and grpc")
		return false
	}
	return ok
}

// grpcTarget is what a check of gRPC's health protocol asks: an address, and after a
// slash the name of a service of it.
func grpcTarget() parser[string] {
	return checked("HOST:PORT[/SERVICE]", "^[^/]*:[0-9]+(/.+)?$", CodeValue, func(v value, text string) bool {
		address, service, named := strings.Cut(text, "/")
		host, port, err := net.SplitHostPort(address)
		n, notPort := strconv.ParseUint(port, 10, 16)
		if err != nil || notPort != nil || n == 0 || named && service == "" {
			v.fail(CodeValue, "10.0.0.11:8080", "%q is no target of a gRPC check", text)
			return false
		}
		return v.checkHost(host, "10.0.0.11:8080")
	})
}

// checkURL is what a check asks.
func checkURL() parser[string] {
	return checked("URL", "^https?://.", CodeValue, func(v value, text string) bool {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			v.fail(CodeValue, "http://10.0.0.11:8080/health", "%q is no URL of a check", text)
			return false
		}
		return true
	})
}

// checkHost refuses what is no host name and no address. It has neither scheme
// nor port.
func (v value) checkHost(host, hint string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if !isHostname(host) {
		v.fail(CodeValue, hint, "%q is no host name and no address", host)
		return false
	}
	return true
}

// isHostname follows RFC 1123 section 2.1, with the underscore that service
// names have. A last label of digits alone is a broken IPv4 address.
func isHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || !onlyOf(label, "-_") {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// onlyOf reports whether s has letters and digits of ASCII, and those of more.
func onlyOf(s, more string) bool {
	for _, r := range s {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (r < '0' || '9' < r) && !strings.ContainsRune(more, r) {
			return false
		}
	}
	return true
}

func (v value) checkDatacenter(text string) bool {
	if !onlyOf(text, "-_") {
		v.fail(CodeValue, "letters, digits, - and _", "%q is no name of a datacenter", text)
		return false
	}
	return true
}
