package tool

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
)

// Log keeps the output of a process, in memory and in a file if it has one.
type Log struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	file *os.File
}

func newLog(path string) (*Log, error) {
	l := &Log{}
	if path == "" {
		return l, nil
	}
	var err error
	l.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	return l, nil
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	if l.file != nil {
		_, _ = l.file.Write(p) // the copy in memory is the one that counts
	}
	return len(p), nil
}

func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// String returns all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Len returns how many bytes there are: a mark for [Log.Since].
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Len()
}

// Since returns what was written after a mark.
func (l *Log) Since(mark int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf.Bytes()[min(mark, l.buf.Len()):])
}

// Lines returns the lines.
func (l *Log) Lines() []string {
	s := strings.TrimRight(l.String(), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// Matching returns the lines that the pattern matches.
func (l *Log) Matching(pattern *regexp.Regexp) []string {
	var out []string
	for _, line := range l.Lines() {
		if pattern.MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) string {
	lines := l.Lines()
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
