package yamlfile

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// maxBadLines bounds how many lines of bad characters are reported: a file that
// is no text at all has them everywhere.
const maxBadLines = 20

// characters reports what YAML does not allow in a file (YAML 1.2, section 5.1):
// bytes that are not UTF-8 and control characters, at the first place of each
// line. The parser names no line for either.
func (r *Report) characters(f File) (bad bool) {
	if bytes.HasPrefix(f.Data, []byte{0xFE, 0xFF}) || bytes.HasPrefix(f.Data, []byte{0xFF, 0xFE}) {
		// The parser would take it, with columns and excerpts of another text.
		r.Add(Problem{
			Source: Source{f.Name, 1, 1}, Code: CodeSyntax, Message: "the file is not UTF-8 but UTF-16",
			Hint: "save it as UTF-8",
		})
		return true
	}
	line, column, lines := 1, 1, 0
	bad = false
	reported := 0 // the last line that was reported
	rest := f.Data
	for len(rest) > 0 {
		c, size := utf8.DecodeRune(rest)
		if message, hint := unreadable(c, size, rest[0]); message != "" && reported != line {
			if lines++; lines > maxBadLines {
				return true
			}
			r.Add(Problem{Source: Source{f.Name, line, column}, Width: 1, Code: CodeSyntax, Message: message, Hint: hint})
			bad, reported = true, line
		}
		switch {
		case c == '\r' && len(rest) > 1 && rest[1] == '\n':
			size = 2
			line, column = line+1, 1
		case c == '\n', c == '\r', c == '\u0085', c == '\u2028', c == '\u2029': // as splitLines
			line, column = line+1, 1
		default:
			column++
		}
		rest = rest[size:]
	}
	return bad
}

// unreadable says why a character may not stand in a file, or nothing.
func unreadable(c rune, size int, first byte) (message, hint string) {
	switch {
	case c == utf8.RuneError && size == 1:
		return fmt.Sprintf("the byte 0x%02X is not UTF-8", first), "save the file as UTF-8; an editor may have taken it for Latin-1"
	case c < ' ' && c != '\t' && c != '\n' && c != '\r', c == 0xFFFE, c == 0xFFFF:
		return fmt.Sprintf("the control character U+%04X may not stand in a file", c),
			fmt.Sprintf(`take it out, or write \u%04X within double quotes`, c)
	}
	return "", ""
}
