package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// report prints what came out: tables for people, or a JSON object a line.
type report struct {
	json     bool
	profiles string // a directory for CPU profiles; empty: none
}

// line prints a result as JSON.
func (r *report) line(result any) {
	if r.json {
		_ = json.NewEncoder(os.Stdout).Encode(result)
	}
}

// table begins a table.
func (r *report) table(title string, columns ...string) {
	if !r.json {
		fmt.Printf("\n### %s\n\n| %s |\n%s|\n", title, strings.Join(columns, " | "), strings.Repeat("|---", len(columns)))
	}
}

// row prints one row: its first cell, and then a format and a value for each.
func (r *report) row(first string, cells ...any) {
	if r.json {
		return
	}
	fmt.Printf("| %s", first)
	for i := 0; i+1 < len(cells); i += 2 {
		fmt.Printf(" | "+cells[i].(string), cells[i+1])
	}
	fmt.Println(" |")
}

// plot prints a line for readers of Markdown that draw Mermaid.
func (r *report) plot(title, xName string, x []int, yName string, y []float64) {
	if r.json {
		return
	}
	list := func(values any, format string) string {
		return strings.ReplaceAll(fmt.Sprintf(format, values), " ", ", ")
	}
	fmt.Printf("\n```mermaid\nxychart-beta\n  title %q\n  x-axis %q %s\n  y-axis %q\n  line %s\n```\n",
		title, xName, list(x, "%d"), yName, list(y, "%.1f"))
}
