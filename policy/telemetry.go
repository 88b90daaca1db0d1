package policy

import (
	"net"
	"strconv"
	"strings"
	"time"
)

func (d *decoder) telemetry(s *section, m *Mesh) {
	d.tracing(s.section("tracing"), &m.Tracing)
	d.metrics(s.section("metrics"), &m.Metrics)
	d.accessLogs(s.section("access_logs"), &m.AccessLogs)
	s.close()
}

func (d *decoder) tracing(s *section, to *Tracing) {
	*to = Tracing{Enabled: s.present(), Provider: "jaeger", Service: "jaeger", SamplingRate: 0.1}
	s.boolean("enabled", &to.Enabled)
	s.word("provider", &to.Provider, "jaeger", "otlp", "zipkin")
	s.ratio("sampling_rate", &to.SamplingRate)
	read(s, "endpoint", &to.Endpoint, value.endpoint)
	read(s, "service", &to.Service, value.serviceName)
	if s.has("endpoint") && s.has("service") {
		s.keyOf("service").fail(CodeConflict, "leave one of them out", "endpoint says where the collector is already")
	}
	if readList(s, "tags", &to.Tags, d.tag) {
		d.checkTagKeys(s, to.Tags)
	}
	s.close()
}

// tag reads one tag. A value that is one variable and nothing else belongs to
// each proxy, which has an environment of its own; what the variable is here,
// beside the control plane, is only the default.
func (d *decoder) tag(v value) (Tag, bool) {
	var t Tag
	s := v.section()
	if !s.present() {
		return t, false
	}
	good := s.filled("key", &t.Key)
	if !s.has("key") {
		s.missing("key", "")
	}
	text, ok := s.get("value")
	if !ok {
		s.missing("value", "")
		s.close()
		return t, false
	}
	name, sole := "", false
	if text.kind == scalar && text.tag == "!!str" {
		name, sole = soleVariable(text.node.text)
	}
	if sole {
		t.Variable = name
		text.mayBeUnset = true
	}
	t.Value, ok = text.str()
	if ok && t.Value == "" && !sole {
		text.fail(CodeEmptyTag, "leave the tag out, or take it from the proxy's environment: ${VARIABLE}", "is empty")
		ok = false
	}
	s.close()
	return t, good && ok
}

func (d *decoder) checkTagKeys(s *section, tags []Tag) {
	v, _ := s.peek("tags")
	items, _ := v.list()
	first := make(map[string]int)
	for i, t := range tags {
		if j, ok := first[t.Key]; ok {
			items[i].fail(CodeDuplicateKey, "", "the tag %q stands in line %d already", t.Key, items[j].at.Line)
			continue
		}
		first[t.Key] = i
	}
}

// endpoint reads HOST:PORT.
func (v value) endpoint() (string, bool) {
	text, ok := v.filled()
	if !ok {
		return "", false
	}
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		var n uint64
		if n, err = strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return text, v.checkHost(host, "HOST:PORT, such as jaeger:4317")
		}
	}
	hint := "HOST:PORT, such as jaeger:4317"
	if strings.Contains(text, "://") {
		hint += ", without a scheme"
	}
	v.fail(CodeValue, hint, "%q is not HOST:PORT", text)
	return "", false
}

func (d *decoder) metrics(s *section, to *Metrics) {
	*to = Metrics{Enabled: s.present(), Provider: "prometheus", ScrapeInterval: 15 * time.Second, Path: "/metrics"}
	s.boolean("enabled", &to.Enabled)
	s.word("provider", &to.Provider, "prometheus")
	s.duration("scrape_interval", &to.ScrapeInterval, time.Second)
	read(s, "path", &to.Path, value.path)
	s.port("port", &to.Port)
	s.close()
}

func (d *decoder) accessLogs(s *section, to *AccessLogs) {
	*to = AccessLogs{Enabled: s.present(), Path: "/dev/stdout", Format: "json"}
	s.boolean("enabled", &to.Enabled)
	if v, ok := s.get("provider"); ok {
		if provider, ok := v.word("file", "otlp", "als"); ok && provider != "file" {
			v.fail(CodeUnsupported, "provider: file", "%s is not supported yet", provider)
		}
	}
	read(s, "path", &to.Path, func(v value) (string, bool) {
		text, ok := v.filled()
		if ok && !strings.HasPrefix(text, "/") {
			v.fail(CodeValue, "/dev/stdout, or a file with its whole path", "%q is not absolute", text)
			return "", false
		}
		return text, ok
	})
	s.word("format", &to.Format, "json", "text")
	f := s.section("filter")
	f.count("min_status", &to.MinStatus, 100, 599)
	f.ratio("sample", &to.Sample)
	if f.has("sample") && !f.has("min_status") {
		f.keyOf("sample").fail(CodeNoEffect, "min_status: 400", "without min_status everything is logged, so there is nothing to sample")
	}
	f.close()
	s.close()
}

// path reads the path of a request: with a slash in front, and no query.
func (v value) path() (string, bool) {
	text, ok := v.filled()
	if !ok {
		return "", false
	}
	if why := unmatchable(text); why != "" {
		v.fail(CodePath, "", "%q %s", text, why)
		return "", false
	}
	return text, true
}
