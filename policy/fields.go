package policy

import (
	"slices"
	"time"
)

// The methods here read the value of a key into to, if the file has it and it
// is right. They report whether it did; otherwise to keeps what it holds,
// which is the setting of the next level down.

func read[T any](s *section, name string, to *T, parse func(value) (T, bool)) bool {
	v, ok := s.get(name)
	if !ok {
		return false
	}
	parsed, ok := parse(v)
	if ok {
		*to = parsed
	}
	return ok
}

func (s *section) str(name string, to *string) bool { return read(s, name, to, value.str) }

// filled reads a text that must not be empty.
func (s *section) filled(name string, to *string) bool {
	return read(s, name, to, value.filled)
}

func (v value) filled() (string, bool) {
	text, ok := v.str()
	if ok && text == "" {
		v.fail(CodeValue, "", "is empty")
		return "", false
	}
	return text, ok
}

func (s *section) boolean(name string, to *bool) bool { return read(s, name, to, value.boolean) }

func (s *section) count(name string, to *uint32, least, most uint64) bool {
	return read(s, name, to, func(v value) (uint32, bool) {
		n, ok := v.whole(least, most)
		return uint32(n), ok //nolint:gosec // most fits
	})
}

func (s *section) port(name string, to *uint16) bool { return read(s, name, to, value.port) }

func (v value) port() (uint16, bool) {
	n, ok := v.whole(1, 65535)
	return uint16(n), ok //nolint:gosec // at most 65535
}

// ratio reads a share from 0 to 1.
func (s *section) ratio(name string, to *float64) {
	read(s, name, to, func(v value) (float64, bool) { return v.real(1, "a ratio: 0.1 is 10 %") })
}

func (s *section) percent(name string, to *float64) bool {
	return read(s, name, to, func(v value) (float64, bool) { return v.real(100, "") })
}

func (s *section) duration(name string, to *time.Duration, least time.Duration) bool {
	return read(s, name, to, func(v value) (time.Duration, bool) { return v.duration(least) })
}

func (s *section) word(name string, to *string, words ...string) bool {
	return read(s, name, to, func(v value) (string, bool) { return v.word(words...) })
}

// names reads a list of texts, each checked.
func (s *section) names(name string, to *[]string, check func(value, string) bool) {
	readList(s, name, to, func(v value) (string, bool) {
		text, ok := v.filled()
		return text, ok && check(v, text)
	})
}

// readList reads a list item by item. It is taken whole or not at all.
func readList[T any](s *section, name string, to *[]T, parse func(value) (T, bool)) bool {
	v, ok := s.get(name)
	if !ok {
		return false
	}
	items, ok := v.list()
	if !ok {
		return false
	}
	all := make([]T, 0, len(items))
	for _, item := range items {
		parsed, good := parse(item)
		ok = ok && good
		all = append(all, parsed)
	}
	if ok {
		*to = slices.Clip(all)
	}
	return ok
}
