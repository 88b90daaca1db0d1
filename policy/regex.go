package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxProgram is the size of an expression, compiled, at which Envoy refuses
// it: the default of re2.max_program_size.error_level, which is 100. Text of a
// hundred letters is too long already.
const maxProgram = 100

// CheckRegex returns why Envoy would refuse the expression, and with it the
// listener or route that has it.
func CheckRegex(expression string) error {
	if len(expression) > 10*maxProgram {
		return fmt.Errorf("regex of %d bytes is too large for Envoy", len(expression))
	}
	if plainWords(expression) {
		return nil
	}
	if _, err := regexp.Compile(expression); err != nil {
		return fmt.Errorf("regex %q: %w", expression, err)
	}
	if size := programSize(expression); size > maxProgram {
		return fmt.Errorf("regex %q is too large for Envoy: its size is about %d, and %d is allowed", expression, size, maxProgram)
	}
	return nil
}

// plainWords reports whether an expression is words with bars between them, as of
// methods, that are certainly small enough: an instruction a letter, and less than one
// more a bar. Every route of a mesh may have one.
func plainWords(expression string) bool {
	return 2*len(expression)+frame <= maxProgram && onlyOf(strings.ReplaceAll(expression, "|", ""), "-_")
}

// frame is what RE2 puts around a program.
const frame = 4

// matchesWhole reports whether an expression, which is a good one, matches all of
// a text.
func matchesWhole(expression, text string) bool {
	return regexp.MustCompile(`^(?:` + expression + `)$`).MatchString(text)
}

// programSize is not less than RE2's program size of a valid expression, and
// near it. Go's compiler makes nearly the same instructions, but for classes
// of characters beyond ASCII, which RE2 compiles to bytes.
func programSize(expression string) int {
	const (
		wideRange = 3
		wideClass = 8
	)
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return maxProgram + 1
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return maxProgram + 1
	}
	size := frame
	for _, inst := range program.Inst {
		switch inst.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			size += wideRange
		case syntax.InstRune, syntax.InstRune1:
			if len(inst.Rune) == 1 {
				size += utf8.RuneLen(inst.Rune[0])
				continue
			}
			class := 0
			for _, bounds := range slices.Collect(slices.Chunk(inst.Rune, 2)) {
				if bounds[1] < utf8.RuneSelf {
					class++
				} else {
					class += wideRange
				}
			}
			size += min(class, wideClass)
		default:
			size++
		}
	}
	return size
}
