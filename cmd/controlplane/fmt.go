package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/yamlfile"
)

func newFormatCommand() *cobra.Command {
	var check, write bool
	cmd := &cobra.Command{
		Use:   "fmt [--check | --write] FILE…",
		Short: "Print a mesh file, or a file catalog, in its canonical form",
		Long: "fmt indents by two blanks, and leaves values, comments and the order of the keys as they are. A file that\n" +
			"would mean another thing then is left alone, with an error. --write replaces the files; --check prints the\n" +
			"names of those that are not in the form, and exits with 2 if there are any.",
		Example:     "  controlplane fmt edit.yaml\n  controlplane fmt --write edit.yaml overlay.yaml",
		Args:        cobra.MinimumNArgs(1),
		Annotations: map[string]string{findings: "files that are not in the form"},
		RunE: func(cmd *cobra.Command, args []string) error {
			other := false
			for _, path := range args {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				out, err := yamlfile.Formatted(yamlfile.File{Name: path, Data: data})
				if err != nil {
					return shown(cmd.ErrOrStderr(), err)
				}
				same := bytes.Equal(out, data)
				other = other || !same
				switch {
				case check && !same:
					_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
				case write && !same:
					err = replaceFile(path, out)
				case !check && !write:
					_, err = cmd.OutOrStdout().Write(out)
				}
				if err != nil {
					return err
				}
			}
			if check && other {
				return foundError{errors.New("not in the canonical form")}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "name the files that are not in the form")
	cmd.Flags().BoolVarP(&write, "write", "w", false, "replace the files")
	cmd.MarkFlagsMutuallyExclusive("check", "write")
	return cmd
}

// replaceFile writes a file that is there, with the rights that it has.
func replaceFile(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, info.Mode().Perm())
}
