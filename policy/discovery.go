package policy

import (
	"net/netip"
	"strings"
	"time"
)

// minDeregister is the least that Consul takes for
// DeregisterCriticalServiceAfter; its reaper runs about every 30 s.
const minDeregister = time.Minute

func (d *decoder) discovery(s *section, to *Discovery) {
	*to = Discovery{Method: "consul"}
	s.word("method", &to.Method, "consul", "file")
	s.filled("file", &to.File)
	switch {
	case to.Method == "file" && !s.has("file"):
		s.missing("file", "file: catalog.yaml")
	case to.Method != "file" && s.has("file"):
		s.keyOf("file").fail(CodeConflict, "method: file", "is only for method file")
	}
	d.consul(s.section("consul"), &to.Consul)
	s.close()
}

func (d *decoder) consul(s *section, to *Consul) {
	*to = Consul{Host: "127.0.0.1", Port: 8500, Scheme: "http", Consistency: "stale"}
	read(s, "host", &to.Host, value.host)
	if s.word("scheme", &to.Scheme, "http", "https") && to.Scheme == "https" {
		to.Port = 8501
	}
	s.port("port", &to.Port)
	read(s, "datacenter", &to.Datacenter, value.datacenter)
	s.filled("token_file", &to.TokenFile)
	s.refuse("token", "a token never stands in the file: token_file: /run/secrets/consul-token, or CONSUL_HTTP_TOKEN")
	s.word("consistency", &to.Consistency, "stale", "default", "consistent")

	tls := s.section("tls")
	tls.filled("ca_file", &to.TLS.CAFile)
	tls.filled("cert_file", &to.TLS.CertFile)
	tls.filled("key_file", &to.TLS.KeyFile)
	tls.filled("server_name", &to.TLS.ServerName)
	if tls.present() && to.Scheme != "https" {
		s.keyOf("tls").fail(CodeConflict, "scheme: https", "is only for scheme https")
	}
	if tls.has("cert_file") != tls.has("key_file") {
		s.keyOf("tls").fail(CodeMissing, "", "cert_file and key_file stand together or not at all")
	}
	tls.close()

	if s.duration("register_interval", &to.RegisterInterval, time.Second) {
		d.unused = append(d.unused, s.keyOf("register_interval"))
	}
	const deregister = "deregister_critical_service_after"
	if s.duration(deregister, &to.DeregisterCriticalServiceAfter, time.Second) {
		d.unused = append(d.unused, s.keyOf(deregister))
		if v, _ := s.peek(deregister); to.DeregisterCriticalServiceAfter < minDeregister {
			v.fail(CodeDeregister, "", "%v is below Consul's minimum: Consul will use %v", to.DeregisterCriticalServiceAfter, minDeregister)
		}
	}
	s.later("on_outage", "select", "register")
	s.close()
}

// warnUnused says once which keys nothing uses yet.
func (d *decoder) warnUnused() {
	if len(d.unused) == 0 {
		return
	}
	var names []string
	for _, v := range d.unused {
		names = append(names, v.key[strings.LastIndex(v.key, ".")+1:])
	}
	v := d.unused[0]
	d.add(Problem{
		Source: v.at, Width: v.columns, Code: CodeUnused, Key: v.key,
		Message: strings.Join(names, " and ") + ": loads; nothing uses it until automated registration",
	})
}

// host reads a host name or an address, without scheme and port.
func (v value) host() (string, bool) {
	text, ok := v.filled()
	if !ok || v.checkHost(text, "scheme and port have keys of their own") {
		return text, ok
	}
	return "", false
}

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

func (v value) datacenter() (string, bool) {
	text, ok := v.filled()
	if ok && !onlyOf(text, "-_") {
		v.fail(CodeValue, "letters, digits, - and _", "%q is no name of a datacenter", text)
		return "", false
	}
	return text, ok
}
