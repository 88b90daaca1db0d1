package why

import (
	"strings"

	"datapunk.dev/controlplane/admission"
)

// request is a call as a proxy on its way sees it.
type request struct{ admission.Request }

// received is a request as the listener hands it on: normalize_path, merge_slashes
// and strip_trailing_host_dot.
func received(r admission.Request) request {
	path, query, asked := strings.Cut(r.Path, "?")
	path = mergeSlashes(normalized(path))
	if asked {
		path += "?" + query
	}
	r.Path = path
	host, port, ported := strings.Cut(r.Authority, ":")
	host = strings.TrimSuffix(host, ".")
	if ported {
		host += ":" + port
	}
	r.Authority = host
	return request{r}
}

// withoutQuery is the path that routes match.
func (r request) withoutQuery() string {
	path, _, _ := strings.Cut(r.Path, "?")
	return path
}

func (r request) query() string {
	_, query, _ := strings.Cut(r.Path, "?")
	return query
}

// grpc reports whether the request is a call of gRPC.
func (r request) grpc() bool {
	t := r.Headers["content-type"]
	return t == "application/grpc" || strings.HasPrefix(t, "application/grpc+")
}

// normalized is a path without dots and backslashes, and without letters that were
// encoded in vain: RFC 3986 section 6, as browsers have it.
func normalized(path string) string {
	path = unreserved(strings.ReplaceAll(path, `\`, "/"))
	segments := strings.Split(path, "/")
	var kept []string
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".":
			if last {
				kept = append(kept, "")
			}
		case "..":
			if len(kept) > 1 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, s)
		}
	}
	if clean := strings.Join(kept, "/"); strings.HasPrefix(clean, "/") {
		return clean
	}
	return "/" + strings.Join(kept, "/")
}

// unreserved decodes what need not be encoded.
func unreserved(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if high, low := hex(path[i+1]), hex(path[i+2]); high >= 0 && low >= 0 {
				if c := byte(high<<4 | low); letter(c) {
					b.WriteByte(c)
					i += 2
					continue
				}
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

func letter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func hex(c byte) int {
	if 'A' <= c && c <= 'F' {
		c += 'a' - 'A'
	}
	return strings.IndexByte("0123456789abcdef", c)
}

func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}
