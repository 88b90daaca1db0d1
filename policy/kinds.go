package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"datapunk.dev/controlplane/yamlfile"
)

// The kinds of values. Each says what it looks like, and reads it.

// anyText may be empty; text may not.
func anyText() parser[string] { return parser[string]{shape{what: "text"}, value.str} }

func text() parser[string] {
	return parser[string]{shape{what: "text", pattern: ".", code: CodeValue}, value.filled}
}

// checked is a text that passes check, which reports what it refuses.
func checked(what, pattern string, code Code, check func(v value, text string) bool) parser[string] {
	return parser[string]{shape{what: what, pattern: pattern, code: code}, func(v value) (string, bool) {
		text, ok := v.filled()
		return text, ok && check(v, text)
	}}
}

// texts is a map of texts. It is taken whole or not at all.
func texts() parser[map[string]string] {
	return parser[map[string]string]{shape{form: formTexts, code: CodeType}, func(v value) (map[string]string, bool) {
		m := v.mapping()
		if !m.present() {
			return nil, false
		}
		all, ok := make(map[string]string), true
		m.each(func(name string, entry value) {
			if entry.Kind != yamlfile.Scalar || entry.Tag != "!!str" {
				v.fail(CodeType, `texts, numbers in quotes: {version: "1"}`, "%s is no text", name)
				ok = false
				return
			}
			text, good := entry.text()
			all[name], ok = text, ok && good
		})
		return all, ok
	}}
}

func boolean() parser[bool] {
	return parser[bool]{shape{form: formBoolean, code: CodeType}, value.boolean}
}

// most is the greatest count that Envoy takes.
const most = 1<<32 - 1

func whole(least, most uint64) parser[uint32] {
	s := shape{form: formWhole, least: float64(least), most: float64(most), code: CodeRange}
	return parser[uint32]{s, func(v value) (uint32, bool) {
		n, ok := v.whole(least, most)
		return uint32(n), ok //nolint:gosec // most fits
	}}
}

func port() parser[uint16] {
	s := shape{form: formWhole, what: "port", least: 1, most: 65535, code: CodeRange}
	return parser[uint16]{s, func(v value) (uint16, bool) {
		n, ok := v.whole(1, 65535)
		return uint16(n), ok //nolint:gosec // at most 65535
	}}
}

func ratio() parser[float64] {
	return parser[float64]{shape{form: formReal, what: "ratio", most: 1, code: CodeRange}, func(v value) (float64, bool) {
		return v.real(1, "a ratio: 0.1 is 10 %")
	}}
}

func percentage() parser[float64] {
	return parser[float64]{shape{form: formReal, what: "percentage", most: 100, code: CodeRange}, func(v value) (float64, bool) {
		return v.real(100, "")
	}}
}

// longest bounds every duration, the others those of certificates: the authority
// lives ten years. Beyond either, Envoy refuses the number or the
// arithmetic overflows (2^63 ns are 292 years).
const (
	longest         = 10 * 365 * 24 * time.Hour
	longestRotation = 365 * 24 * time.Hour
	longestLife     = 5 * longestRotation
)

func duration(shortest time.Duration) parser[time.Duration] { return durationUpTo(shortest, longest) }

func durationUpTo(shortest, longest time.Duration) parser[time.Duration] {
	s := shape{form: formDuration, shortest: shortest, longest: longest, code: CodeDuration}
	return parser[time.Duration]{s, func(v value) (time.Duration, bool) { return v.duration(shortest, longest) }}
}

// word is one of some words.
func word[W ~string](words ...W) parser[W] {
	plain := make([]string, len(words))
	for i, w := range words {
		plain[i] = string(w)
	}
	return parser[W]{shape{form: formWord, words: plain, code: CodeWord}, func(v value) (W, bool) {
		text, ok := v.word(plain...)
		return W(text), ok
	}}
}

// wordOf is a word that is one of those that are supported. Of those that are not yet, it
// is said so.
func wordOf[W ~string](words []W, soon ...string) parser[W] {
	p := word(words...)
	p.soon = soon
	return parser[W]{p.shape, func(v value) (W, bool) {
		text, ok := v.word(append(slices.Clone(p.words), soon...)...)
		if ok && slices.Contains(soon, text) {
			v.fail(CodeUnsupported, v.name()+": "+strings.Join(p.words, " or "), "%s is not supported yet", text)
			return "", false
		}
		return W(text), ok
	}}
}

// only is the kind of a key that takes one word until others are supported. It
// is kept nowhere.
func only[T any](word string, soon ...string) kind[T] {
	s := shape{form: formWord, words: []string{word}, soon: soon, code: CodeWord}
	return kind[T]{s, func(v value, _ *T) bool {
		got, ok := v.word(append([]string{word}, soon...)...)
		if ok && got != word {
			v.fail(CodeUnsupported, v.name()+": "+word, "%s is not supported yet", got)
			return false
		}
		return ok
	}}
}

func host() parser[string] {
	return checked("host name or address", "^[^/]+$", CodeValue, func(v value, text string) bool {
		return v.checkHost(text, "scheme and port have keys of their own")
	})
}

func hostPort() parser[string] {
	return parser[string]{shape{what: "HOST:PORT", pattern: ":[0-9]+$", code: CodeValue}, value.endpoint}
}

// hostOrPort is a host, with a port or without.
func hostOrPort() parser[string] {
	return checked("HOST or HOST:PORT", "^[^/]+$", CodeValue, func(v value, text string) bool {
		name, number, err := net.SplitHostPort(text)
		if _, notBare := netip.ParseAddr(text); err != nil || notBare == nil {
			return v.checkHost(text, "consul-2, or consul-2:8500")
		}
		if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
			v.fail(CodeValue, "consul-2:8500", "%q is no port", number)
			return false
		}
		return v.checkHost(name, "consul-2:8500")
	})
}

func datacenter() parser[string] {
	return checked("text", "^[A-Za-z0-9_-]+$", CodeValue, value.checkDatacenter)
}

func absolutePath() parser[string] {
	return checked("absolute path", "^/", CodeValue, value.checkAbsolute)
}

func requestPath() parser[string] {
	return parser[string]{shape{what: "path of a request", pattern: "^/", code: CodePath}, value.path}
}

func pathPattern() parser[string] {
	return checked("path, `*` at its end", `^(/|\*$)`, CodePath, value.pathPattern)
}

func serviceName() parser[string] {
	return checked("service", "^[A-Za-z0-9._-]+$", CodeServiceName, value.checkServiceName)
}

// servicePattern is the name of a service in Consul, in which a star is any part.
func servicePattern() parser[string] {
	return checked("service, `*` for any part", `^[A-Za-z0-9._*-]+$`, CodeServiceName, func(v value, text string) bool {
		if !onlyOf(text, "._-*") {
			v.fail(CodeServiceName, "letters, digits, dots, dashes and underscores, and * for any part", "%q is no name of services", text)
			return false
		}
		return true
	})
}

// tag is one of Consul's that its filters can say.
func tag() parser[string] {
	return checked("tag", "^[^\"\\\\]+$", CodeValue, func(v value, text string) bool {
		if strings.ContainsFunc(text, func(r rune) bool { return r == '"' || r == '\\' || !unicode.IsPrint(r) }) {
			v.fail(CodeValue, "", "%q is a tag that Consul's filters cannot say", text)
			return false
		}
		return true
	})
}

func trustDomain() parser[string] {
	return checked("trust domain", "^[a-z0-9._-]+$", CodeTrustDomain, value.checkTrustDomain)
}

// rootHash is of a certificate.
func rootHash() parser[string] {
	return checked("sha256:HEX", "^sha256:[0-9a-fA-F:]+$", CodeValue, func(v value, text string) bool {
		digits, ok := strings.CutPrefix(text, "sha256:")
		if sum, err := hex.DecodeString(strings.ReplaceAll(digits, ":", "")); !ok || err != nil || len(sum) != sha256.Size {
			v.fail(CodeValue, "sha256: and 64 hexadecimal digits", "%q is no hash of a certificate", text)
			return false
		}
		return true
	})
}

func principal() parser[string] {
	return checked("SPIFFE ID, `*` in its path", "^spiffe://[^*/]+/.", CodePrincipal, value.principal)
}

func method() parser[string] { return checked("method", "^[^a-z]+$", CodeMatch, value.checkMethod) }

func headerName() parser[string] {
	return parser[string]{shape{what: "name of a header", pattern: ".", code: CodeMatch}, value.headerName}
}

func callerHeaderName() parser[string] {
	return parser[string]{shape{what: "name of a header", pattern: ".", code: CodeMatch}, value.callerHeaderName}
}

func regex() parser[string] {
	return parser[string]{shape{what: "RE2 expression", pattern: ".", code: CodeMatch}, value.regex}
}

func retryCondition() parser[string] {
	p := checked("condition", "", CodeRetryOn, value.checkCondition)
	p.form, p.words = formWord, retryConditions()
	return p
}

func (v value) filled() (string, bool) {
	text, ok := v.str()
	if ok && text == "" {
		v.fail(CodeValue, "", "is empty")
		return "", false
	}
	return text, ok
}

func (v value) checkAbsolute(text string) bool {
	if !strings.HasPrefix(text, "/") {
		v.fail(CodeValue, "/dev/stdout, or a file with its whole path", "%q is not absolute", text)
		return false
	}
	return true
}
