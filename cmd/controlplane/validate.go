package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch/file"
)

func newValidateCommand() *cobra.Command {
	var files []string
	var environment, catalog string
	cmd := &cobra.Command{
		Use:   "validate -f FILE [-f FILE…] [--environment E] [--catalog file:PATH]",
		Short: "Check a mesh file: every error at once, each with its line",
		Long:  "validate loads a mesh file as serve would. Without --environment it checks the file by itself and\nwith each of its environments. With --catalog it checks a catalog in a file too. It exits with 0, with\n1 and one line an error on stderr (FILE:LINE:COL: CODE: message, the caret below it), or with 2 for a\nwrong flag.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, ok := strings.CutPrefix(catalog, "file:")
			if catalog != "" && (!ok || path == "") {
				return usageError{fmt.Errorf("--catalog %q: want file:PATH", catalog)}
			}
			warnings, err := policy.Validate(files, policy.Options{Environment: environment, LookupEnv: os.LookupEnv})
			for _, w := range warnings {
				w.Format(cmd.ErrOrStderr())
			}
			err = shown(cmd.ErrOrStderr(), err)
			if catalog != "" {
				other := shown(cmd.ErrOrStderr(), file.Validate(path))
				if errors.As(err, new(shownError)) || err == nil {
					err = cmp.Or(other, err) // the one that has yet to be shown, if there is one
				}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the mesh file is valid")
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "mesh file; several are merged left to right")
	cmd.Flags().StringVar(&environment, "environment", "", "environment of the mesh file to merge in")
	cmd.Flags().StringVar(&catalog, "catalog", "", "a catalog to check too: file:PATH")
	require(cmd, "file")
	return cmd
}
