package policy

import (
	"net"
	"strconv"
	"strings"

	"datapunk.dev/controlplane/yamlfile"
)

// telemetry reads what proxies report. Each part is on where the file has it.
func (d *decoder) telemetry(s *mapping, m *Mesh) {
	telemetryKeys.read(s, m)
	tracing := s.section("tracing")
	tracingKeys.defaults(&m.Tracing)
	m.Tracing.Enabled = tracing.present()
	tracingKeys.read(tracing, &m.Tracing)
	checkTracing(tracing, m.Tracing.Tags)

	metrics := s.section("metrics")
	metricsKeys.defaults(&m.Metrics)
	m.Metrics.Enabled = metrics.present()
	metricsKeys.read(metrics, &m.Metrics)

	logs := s.section("access_logs")
	accessLogKeys.defaults(&m.AccessLogs)
	m.AccessLogs.Enabled = logs.present()
	accessLogKeys.read(logs, &m.AccessLogs)
	filter := logs.section("filter")
	logFilterKeys.read(filter, &m.AccessLogs)
	if filter.has("sample") && !filter.has("min_status") {
		filter.keyOf("sample").fail(CodeNoEffect, "min_status: 400", "without min_status everything is logged, so there is nothing to sample")
	}
}

func checkTracing(s *mapping, tags []Tag) {
	if s.has("endpoint") && s.has("service") {
		s.keyOf("service").fail(CodeConflict, "leave one of them out", "endpoint says where the collector is already")
	}
	if s.got("tags") {
		checkTagKeys(s.first("tags"), tags)
	}
}

// tagValue is a value that, if it is one variable and nothing else, belongs to
// each proxy, which has an environment of its own; what the variable is here,
// beside the control plane, is only the default.
func tagValue() kind[Tag] {
	return kind[Tag]{shape{what: "text"}, func(v value, to *Tag) bool {
		name, sole := "", false
		if v.Kind == yamlfile.Scalar && v.Tag == "!!str" {
			name, sole = soleVariable(v.Text)
		}
		if sole {
			to.Variable = name
			v.mayBeUnset = true
		}
		var ok bool
		to.Value, ok = v.str()
		if ok && to.Value == "" && !sole {
			v.fail(CodeEmptyTag, "leave the tag out, or take it from the proxy's environment: ${VARIABLE}", "is empty")
			return false
		}
		return ok
	}}
}

func checkTagKeys(v value, tags []Tag) {
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
