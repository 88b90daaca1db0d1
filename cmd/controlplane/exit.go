package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/yamlfile"
)

// exitCode prints an error as one line, unless it was shown already, and returns
// what the process exits with: 1 for an error, 2 for a wrong command line, and for
// what a command was asked to find and has found, 3 if the control plane does not
// answer.
func exitCode(err error) int {
	var usage usageError
	var shown shownError
	var found foundError
	var silent noAnswerError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &shown):
		return 1
	case errors.As(err, &found):
		return 2
	case errors.As(err, &silent):
		lastWord(err)
		return 3
	case errors.As(err, &usage):
		lastWord(err)
		return 2
	default:
		lastWord(err)
		return 1
	}
}

// usageError is a wrong flag or argument.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// shownError is an error that the command has printed in a form of its own.
type shownError struct{ error }

// foundError is what a command was asked to look for, and has printed.
type foundError struct{ error }

// noAnswerError is a control plane that does not answer.
type noAnswerError struct{ error }

func (e noAnswerError) Unwrap() error { return e.error }

// findings is the annotation of commands that exit with 2 for what they find, and so
// with 1 for a wrong flag.
const findings = "findings"

// wrongUsage is a wrong flag or argument of a command.
func wrongUsage(cmd *cobra.Command, err error) error {
	if cmd.Annotations[findings] != "" {
		return err
	}
	return usageError{err}
}

// shown writes what is wrong with a file, each problem with its line.
func shown(w io.Writer, err error) error {
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		return err
	}
	for _, p := range problems {
		p.Format(w)
	}
	return shownError{err}
}
