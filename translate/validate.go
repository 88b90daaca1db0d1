package translate

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode/utf8"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// What ValidateAll cannot know, and Envoy refuses or swallows, is checked
// where it is made; the checks that several places need are here.

// maxProgram is the size of an expression, compiled, at which Envoy refuses
// it: the default of re2.max_program_size.error_level, which is 100. Text of a
// hundred letters is too long already.
const maxProgram = 100

// checkRegex refuses an expression that Envoy would, and with it the listener
// or route that has it.
func (d *draft) checkRegex(m *matcherv3.StringMatcher) {
	if r := m.GetSafeRegex(); r != nil {
		if err := validRegex(r.Regex); err != nil {
			d.errs = append(d.errs, err)
		}
	}
}

func validRegex(expression string) error {
	if len(expression) > 10*maxProgram {
		return fmt.Errorf("regex of %d bytes is too large for Envoy", len(expression))
	}
	if _, err := regexp.Compile(expression); err != nil {
		return fmt.Errorf("regex %q: %w", expression, err)
	}
	if size := programSize(expression); size > maxProgram {
		return fmt.Errorf("regex %q is too large for Envoy: its size is about %d, and %d is allowed", expression, size, maxProgram)
	}
	return nil
}

// programSize is not less than RE2's program size of a valid expression, and
// near it. Go's compiler makes nearly the same instructions, but for classes
// of characters beyond ASCII, which RE2 compiles to bytes.
func programSize(expression string) int {
	const (
		frame     = 4 // what RE2 puts around a program
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

// checkRetryOn refuses words that Envoy would ignore with a warning.
func (d *draft) checkRetryOn(conditions []string) {
	for _, c := range conditions {
		switch c {
		case "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
			"retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers",
			"http3-post-connect-failure",
			"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
		default:
			d.failf("retry: unknown condition %q", c)
		}
	}
}
