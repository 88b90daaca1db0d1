package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// blankLine stands for a blank line in a comment, since the YAML library keeps
// comments and no blank lines.
const blankLine = "#\uE000"

var blankLines = regexp.MustCompile(`(?m)^[ ]*` + blankLine + `$`)

// Formatted returns a file in the canonical form: two blanks a level, one blank line
// at most, values as they are written, comments and the order of the keys kept. What
// it means is the same, or there is an error.
func Formatted(f File) ([]byte, error) {
	r := NewReport(f)
	before := r.Parse(f, "one is enough")
	if problems, _ := r.Split(); len(problems) > 0 {
		return nil, problems
	}
	if before == nil {
		return f.Data, nil
	}
	if bytes.Contains(f.Data, []byte(blankLine)) {
		return nil, fmt.Errorf("%s: it has the letter U+E000, and cannot be formatted", f.Name)
	}
	out, err := settled(f.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	formatted := File{Name: f.Name, Data: out}
	after := NewReport(formatted).Parse(formatted, "")
	if !reflect.DeepEqual(meaning(before), meaning(after)) || words(comments(f.Data)) != words(comments(out)) {
		return nil, errors.New(f.Name + ": it cannot be formatted without a change of what it says")
	}
	return out, nil
}

// settled writes a file until that changes nothing more: the YAML library puts some
// comments at another node when it reads what it has written.
func settled(data []byte) ([]byte, error) {
	for range 4 {
		out, err := rewritten(data)
		if err != nil || bytes.Equal(out, data) {
			return out, err
		}
		data = out
	}
	return nil, errors.New("it does not come to rest, and cannot be formatted")
}

// rewritten is a file as the YAML library writes it, with its blank lines.
func rewritten(data []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		return nil, err
	}
	m := &blanks{lines: splitLines(string(data))}
	m.mark(&doc)
	out, err := yaml.Dump(&doc, yaml.WithIndent(2), yaml.WithCompactSeqIndent(false), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, err
	}
	return blankLines.ReplaceAll(out, nil), nil
}

// blanks finds the blank lines above nodes.
type blanks struct{ lines []string }

// mark puts a line that stands for a blank one above each key and item that has one
// above itself, or above its comment.
func (b *blanks) mark(n *yaml.Node) {
	step := 1
	if n.Kind == yaml.MappingNode {
		step = 2
	}
	if n.Style&yaml.FlowStyle == 0 && (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) {
		for i := 0; i < len(n.Content); i += step {
			child := n.Content[i]
			if i > 0 && b.above(child) {
				child.HeadComment = strings.TrimSuffix(blankLine+"\n"+child.HeadComment, "\n")
			}
		}
	}
	for _, child := range n.Content {
		b.mark(child)
	}
}

// above reports whether there is a blank line above a node and its comment.
func (b *blanks) above(n *yaml.Node) bool {
	i := n.Line - 2
	for i >= 0 && i < len(b.lines) && strings.HasPrefix(strings.TrimSpace(b.lines[i]), "#") {
		i--
	}
	return i >= 0 && i < len(b.lines) && strings.TrimSpace(b.lines[i]) == ""
}

// meaning is a tree without its places.
func meaning(n *Node) any {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case Scalar:
		return [2]string{n.Tag, n.Text}
	case List:
		all := []any{}
		for _, item := range n.Items {
			all = append(all, meaning(item))
		}
		return all
	case Map:
		all := []any{}
		for _, f := range n.Fields {
			all = append(all, f.Name, meaning(f.Value))
		}
		return all
	}
	return nil
}

// comments is the text of a file's comments, as far as they can be told from a `#`
// within a value: the same is taken for one before and after.
func comments(data []byte) string {
	var b strings.Builder
	for _, match := range regexp.MustCompile(`(?m)(?:^|[ \t])#(.*)$`).FindAllSubmatch(data, -1) {
		b.Write(match[1])
		b.WriteByte('\n')
	}
	return b.String()
}

func words(text string) string { return strings.Join(strings.Fields(text), " ") }
