package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-bexpr"
	"github.com/hashicorp/go-bexpr/grammar"
)

// Filterable is what a filter sees of an instance, under the names that Consul has
// for it.
type Filterable struct{ Service FilterableService }

// FilterableService is an instance.
type FilterableService struct {
	ID, Service, Address string
	Port                 int
	Tags                 []string
	Meta                 map[string]string
}

// filterable are the names of it; what stands below Meta is the instance's own.
var filterable = []string{"ID", "Service", "Address", "Port", "Tags", "Meta"}

// A Filter picks instances by an expression in the language of Consul's catalog.
type Filter struct{ evaluator *bexpr.Evaluator }

// The bounds of an expression: a reader of it goes back and forth, the more the
// deeper its parentheses.
const (
	longestFilter = 1000
	mostSteps     = 100_000
)

// CompileFilter reads an expression. Its error is for the operator.
func CompileFilter(expression string) (*Filter, error) {
	if len(expression) > longestFilter {
		return nil, fmt.Errorf("has %d bytes; at most %d", len(expression), longestFilter)
	}
	parsed, err := grammar.Parse("", []byte(expression), grammar.MaxExpressions(mostSteps))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	tree, ok := parsed.(grammar.Expression)
	if !ok {
		return nil, errors.New("is no expression")
	}
	if err := checkSelectors(tree); err != nil {
		return nil, err
	}
	evaluator, err := bexpr.CreateEvaluator(expression, bexpr.WithMaxExpressions(mostSteps))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	f := &Filter{evaluator}
	if _, err := f.evaluator.Evaluate(Filterable{}); err != nil {
		return nil, fmt.Errorf("means nothing: %w", err)
	}
	return f, nil
}

// Takes reports whether the filter picks the instance. What cannot be compared is
// not picked.
func (f *Filter) Takes(i Filterable) bool {
	takes, err := f.evaluator.Evaluate(i)
	return takes && err == nil
}

// checkSelectors refuses names that no instance has: a side of an `or` that is never
// looked at would hide them.
func checkSelectors(e grammar.Expression) error {
	switch e := e.(type) {
	case *grammar.UnaryExpression:
		return checkSelectors(e.Operand)
	case *grammar.BinaryExpression:
		return errors.Join(checkSelectors(e.Left), checkSelectors(e.Right))
	case *grammar.MatchExpression:
		path := e.Selector.Path
		deep := len(path) > 1 && path[1] == "Meta"
		if len(path) < 2 || path[0] != "Service" || !slices.Contains(filterable, path[1]) || len(path) > 2 && !deep || len(path) > 3 {
			return fmt.Errorf("has %s, which is none of Service.%s.KEY", strings.Join(path, "."), strings.Join(filterable, ", Service."))
		}
		return nil
	default:
		return errors.New("has all or any, which are not for instances")
	}
}

// filterText is such an expression.
func filterText() parser[string] {
	return checked("expression", ".", CodeMatch, func(v value, text string) bool {
		if _, err := CompileFilter(text); err != nil {
			v.fail(CodeMatch, `Service.Meta.version == "v3"; "beta" in Service.Tags`, "%v", err)
			return false
		}
		return true
	})
}
