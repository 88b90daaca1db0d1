package watch

import (
	"fmt"
	"strings"
)

// The bounds of a host name: RFC 1035 section 2.3.4, less the final dot.
const (
	maxHostname = 253
	maxLabel    = 63
)

const noHostname = "is neither an IP address nor a host name"

// Hostname returns a host name as instances have it, in lower case and without
// a final dot, or why the text is none. Underscores are let through: no host
// has one by the book (RFC 1123), and those of container networks do.
//
// A last label of digits alone is refused. It is no name that can be resolved
// but an address with a mistake in it, 10.0.0.256 say.
func Hostname(text string) (name, reason string) {
	text = strings.TrimSuffix(text, ".")
	if len(text) > maxHostname {
		return "", fmt.Sprintf("is no host name: it has more than %d letters", maxHostname)
	}
	last := ""
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notOfHosts) {
			return "", noHostname
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return "", noHostname + ": it ends in a number"
	}
	return strings.ToLower(text), ""
}

func notOfHosts(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	default:
		return true
	}
}
