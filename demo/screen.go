package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// screen prints in one column with a calm margin, in color on a terminal.
type screen struct {
	out   io.Writer
	color bool
}

func newScreen(f *os.File) *screen {
	info, err := f.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &screen{out: f, color: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// The styles, as ANSI codes.
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (s *screen) style(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// printf prints. A terminal that is gone is no reason to leave processes behind.
func (s *screen) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, format, args...)
}

// title opens a section.
func (s *screen) title(text string) {
	s.printf("\n  %s\n\n", s.style(bold, text))
}

// part says that a part runs, and how long it took to.
func (s *screen) part(name, text string, took time.Duration) {
	s.printf("  %-15s %-58s %s\n", name, text, s.style(faint, seconds(took)))
}

// step opens a step of the script.
func (s *screen) step(n, of int, text string) {
	if n > 1 {
		s.printf("\n")
	}
	s.printf("  %s  %s\n", s.style(faint, fmt.Sprintf("%d/%d", n, of)), s.style(bold, text))
}

// saw says what was seen to happen.
func (s *screen) saw(format string, args ...any) {
	s.mark(green, "✓", fmt.Sprintf(format, args...))
}

// missed says what did not happen.
func (s *screen) missed(err error) {
	s.mark(red, "✗", err.Error())
}

func (s *screen) mark(code, mark, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	s.printf("       %s %s\n", s.style(code, mark), lines[0])
	for _, line := range lines[1:] {
		s.printf("         %s\n", line)
	}
}

// note says something by the way.
func (s *screen) note(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		s.printf("         %s\n", s.style(faint, line))
	}
}

// command shows what to type, and what for.
func (s *screen) command(text, why string) {
	s.printf("  %s\n", s.style(faint, "# "+why))
	s.printf("  %s\n\n", s.style(cyan, text))
}

// table prints rows under a header, the columns as wide as they need.
func (s *screen) table(header []string, rows [][]string) {
	width := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(row []string, paint func(string) string) {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(paint(cell))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		s.printf("  %s\n", b.String())
	}
	line(header, func(cell string) string { return s.style(faint, cell) })
	for _, row := range rows {
		line(row, s.state)
	}
}

// state paints the words that say how a proxy is.
func (s *screen) state(cell string) string {
	switch cell {
	case "SYNCED":
		return s.style(green, cell)
	case "REJECTED":
		return s.style(red, cell)
	case "NOT_SENT":
		return s.style(faint, cell)
	}
	return cell
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
