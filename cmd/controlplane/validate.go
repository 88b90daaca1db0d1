package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/policy"
)

func newValidateCommand() *cobra.Command {
	var files []string
	var environment string
	cmd := &cobra.Command{
		Use:   "validate -f FILE [-f FILE…] [--environment E]",
		Short: "Check a mesh file: every error at once, each with its line",
		Long:  "validate loads a mesh file as serve would. Without --environment it checks the file by itself and\nwith each of its environments. It exits with 0, with 1 and one line an error on stderr\n(FILE:LINE:COL: CODE: message, the caret below it), or with 2 for a wrong flag.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts := policy.Options{Environment: environment, LookupEnv: os.LookupEnv}
			warnings, err := policy.Validate(files, opts)
			for _, w := range warnings {
				w.Format(cmd.ErrOrStderr())
			}
			var problems policy.Problems
			if errors.As(err, &problems) {
				for _, p := range problems {
					p.Format(cmd.ErrOrStderr())
				}
				return shownError{err}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the mesh file is valid")
			return err
		},
	}
	meshFileFlags(cmd, &files, &environment)
	return cmd
}

func meshFileFlags(cmd *cobra.Command, files *[]string, environment *string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "mesh file; several are merged left to right")
	cmd.Flags().StringVar(environment, "environment", "", "environment of the mesh file to merge in")
	if err := cmd.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag is defined two lines above
	}
}
