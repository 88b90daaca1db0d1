package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"datapunk.dev/controlplane/codes"
	"datapunk.dev/controlplane/yamlfile"
)

// problem is what is wrong with a file, as JSON has it.
type problem struct {
	Code     string         `json:"code"`
	Severity codes.Severity `json:"severity"`
	File     string         `json:"file"`
	Line     int            `json:"line"`
	Column   int            `json:"column"`
	Key      string         `json:"key,omitempty"`
	Message  string         `json:"message"`
	Hint     string         `json:"hint,omitempty"`

	width int
}

func problemOf(p yamlfile.Problem) problem {
	return problem{
		Code: string(p.Code), Severity: codes.SeverityOf(string(p.Code)), File: p.Source.File, Line: p.Source.Line, Column: p.Source.Column,
		Key: p.Key, Message: p.Message, Hint: p.Hint, width: p.Width,
	}
}

// writeProblems writes problems as JSON, as SARIF, or as annotations of a workflow
// of GitHub.
func writeProblems(w io.Writer, form string, all []problem) error {
	switch form {
	case "sarif":
		return writeJSON(w, sarifOf(all))
	case "github":
		var b strings.Builder
		for _, p := range all {
			level := "error"
			if p.Severity != codes.Error {
				level = "warning"
			}
			text := p.Message
			if p.Hint != "" {
				text += " (" + p.Hint + ")"
			}
			fmt.Fprintf(&b, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", level, property(p.File), max(1, p.Line), max(1, p.Column), property(p.Code), data(text))
		}
		_, err := io.WriteString(w, b.String())
		return err
	default:
		return writeJSON(w, struct {
			Problems []problem `json:"problems"`
		}{all})
	}
}

// data and property write text as a command of a workflow takes it: what stands in a
// file must not begin another command.
func data(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

// The parts of SARIF 2.1.0 that are used.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
		Columns string        `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
		Full  sarifText `json:"fullDescription"`
		Help  sarifText `json:"help"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
		EndColumn   int `json:"endColumn"`
	}
)

// sarifOf is a run of this tool. It has the rules that were broken alone.
func sarifOf(all []problem) sarifLog {
	run := sarifRun{
		Tool:    sarifTool{sarifDriver{Name: "controlplane", Version: buildVersion(), Rules: []sarifRule{}}},
		Results: []sarifResult{}, Columns: "unicodeCodePoints",
	}
	index := make(map[string]int)
	for _, p := range all {
		i, ok := index[p.Code]
		if !ok {
			i = len(index)
			index[p.Code] = i
			e, _ := codes.Lookup(p.Code)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{p.Code, sarifText{e.Title}, sarifText{e.Why}, sarifText{e.Fix}})
		}
		level := "error"
		if p.Severity != codes.Error {
			level = "warning"
		}
		text := p.Message
		if p.Hint != "" {
			text += ": " + p.Hint
		}
		column := max(1, p.Column)
		run.Results = append(run.Results, sarifResult{
			RuleID: p.Code, RuleIndex: i, Level: level, Message: sarifText{text},
			Locations: []sarifLocation{{sarifPhysical{sarifArtifact{filepath.ToSlash(p.File)}, sarifRegion{max(1, p.Line), column, column + max(1, p.width)}}}},
		})
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}
