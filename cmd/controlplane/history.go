package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

func newHistoryCommand() *cobra.Command {
	var server adminFlags
	cmd := &cobra.Command{
		Use:   "history {list | show REV | diff [REV] REV | pin REV | release}",
		Short: "Show the mesh files that were in force, and go back to one",
		Long: "history shows the last 20 revisions of the mesh file, which the data directory of the replica that is asked keeps\n" +
			"as they were written. pin has one served, over restarts too, until release: an edit of the file waits meanwhile.\n" +
			"It is for all replicas of --leader consul, whichever is told, and takes the role operate.",
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	server.add(cmd)
	cmd.AddCommand(newHistoryListCommand(&server), newHistoryShowCommand(&server), newHistoryDiffCommand(&server), newPinCommand(&server), newReleaseCommand(&server))
	return cmd
}

// revisions completes those that are kept.
func (f *adminFlags) revisions(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := f.client()
	var is api.Revisions
	if err != nil || client.get(cmd.Context(), "/revisions", nil, &is) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []string
	for _, r := range is.Revisions {
		all = append(all, r.Revision+"\t"+r.Kept.Local().Format(time.DateTime))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func newHistoryListCommand(server *adminFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the revisions, newest first", Args: cobra.NoArgs}
	out := outputFlag(cmd, tableForms...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var is api.Revisions
		if err := server.get(cmd.Context(), "/revisions", nil, &is); err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), is, func(w io.Writer) error { return printRevisions(w, out, &is) })
	}
	return cmd
}

func printRevisions(w io.Writer, out *output, is *api.Revisions) error {
	rows := [][]string{{"NUMBER", "REVISION", "KEPT", "FILES", ""}}
	for _, r := range is.Revisions {
		mark := ""
		if r.InForce {
			mark = "in force"
		}
		if pin := is.Pinned; pin != nil && r.Revision == pin.Revision {
			switch {
			case pin.Failed != "":
				mark = "pinned by " + pin.By + ", and cannot be served"
			case r.InForce:
				mark = "pinned by " + pin.By
			}
		}
		rows = append(rows, []string{strconv.Itoa(r.Number), r.Revision, r.Kept.Local().Format(time.DateTime), strings.Join(r.Files, " "), mark})
	}
	return out.table(w, rows)
}

func newHistoryShowCommand(server *adminFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "show REV", Short: "Print a revision as it was written", Args: cobra.ExactArgs(1), ValidArgsFunction: server.revisions}
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var is api.RevisionFiles
		if err := server.get(cmd.Context(), "/revisions/"+url.PathEscape(args[0]), nil, &is); err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), is, func(w io.Writer) error {
			for _, f := range is.Files {
				if len(is.Files) > 1 {
					if _, err := fmt.Fprintf(w, "# %s\n", f.Name); err != nil {
						return err
					}
				}
				if _, err := io.WriteString(w, f.Content); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func newHistoryDiffCommand(server *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "diff [FROM] REV", Short: "Compare a revision with another one, or with that in force",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: server.revisions, Annotations: map[string]string{findings: "differences"},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := server.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if len(args) == 2 {
				query.Set("against", args[0])
			}
			var is api.Diff
			if err := client.get(cmd.Context(), "/revisions/"+url.PathEscape(args[len(args)-1])+"/diff", query, &is); err != nil {
				return err
			}
			if is.Diff == "" {
				return nil
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), is.Diff); err != nil {
				return err
			}
			return foundError{errors.New("they differ")}
		},
	}
}

func newPinCommand(server *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "pin REV", Short: "Serve a revision until it is released", Args: cobra.ExactArgs(1), ValidArgsFunction: server.revisions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return server.do(cmd, "/revisions/"+url.PathEscape(args[0])+"/pin", nil)
		},
	}
}

func newReleaseCommand(server *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "release", Short: "Serve what stands in the mesh file again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var is api.Revisions
			if err := server.get(cmd.Context(), "/revisions", nil, &is); err != nil {
				return err
			}
			if is.Pinned == nil {
				return errors.New("no revision is pinned")
			}
			return server.do(cmd, "/revisions/"+is.Pinned.Revision+"/release", nil)
		},
	}
}
