package main

import (
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/policy"
)

// revisionFormat is how a revision is written.
var revisionFormat = regexp.MustCompile(`^[0-9a-f]{12}$`)

func newAcceptCommand() *cobra.Command {
	var files []string
	var dataDir, revision string
	cmd := &cobra.Command{
		Use:   "accept {-f FILE [-f FILE…] | --revision R} [--data-dir DIR]",
		Short: "Say of an edit that it is meant: it takes effect at once",
		Long: "accept says of a mesh file, or of a file catalog, that what stands in it now is meant. An edit that\n" +
			"admits whom the last one denied, or removes much, then need not wait, and one that is a beginning\n" +
			"of the file in force is taken. The word is on the content, by its hash, and good for one time; it may\n" +
			"be given before the file is put in place. It is left in the data directory, so it takes the user of\n" +
			"the control plane. Several mesh files are named as for serve, in the same order. --revision names what\n" +
			"/readyz says to be kept though the catalog's new source does not have it, or what has grown too much.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) > 0 {
				var err error
				if revision, err = policy.ReadRevision(files); err != nil {
					return err
				}
			} else if !revisionFormat.MatchString(revision) {
				return usageError{fmt.Errorf("--revision %q: want 12 hexadecimal digits, as /readyz has them", revision)}
			}
			dir := dataDirectory(dataDir)
			if err := control.NewRevisions(dir).Mean(revision); err != nil {
				return fmt.Errorf("data directory: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "revision %s is meant: the control plane with data directory %s takes it at once\n", revision, dir)
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "mesh file, as given to serve; or a file catalog")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "data directory of the control plane (default $CONTROLPLANE_DATA_DIR, $STATE_DIRECTORY, else ./data)")
	cmd.Flags().StringVar(&revision, "revision", "", "what /readyz says that is kept")
	cmd.MarkFlagsOneRequired("file", "revision")
	cmd.MarkFlagsMutuallyExclusive("file", "revision")
	return cmd
}
