package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

func newEventsCommand() *cobra.Command {
	var server adminFlags
	var after string
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened, and what happens",
		Long: "events shows the last mesh files that came into force or did not, proxies that came, left or refused something,\n" +
			"and what operators did. Each replica has its own, of this process: the log has what is older.",
		Example: "  controlplane events --follow -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "table", "json", "yaml")
	server.add(cmd)
	cmd.Flags().StringVar(&after, "after", "", "only what came after a cursor")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, until ended; with -o json each is a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := server.client()
		if err != nil {
			return err
		}
		if follow {
			return client.follow(cmd, after, func(e api.Event) error { return printEvent(cmd.OutOrStdout(), out, e) })
		}
		var is api.Events
		query := url.Values{"limit": {strconv.Itoa(api.MaxPage)}}
		if after != "" {
			query.Set("after", after)
		}
		if err := client.get(cmd.Context(), "/events", query, &is); err != nil {
			return err
		}
		if err := printElsewhere(cmd.ErrOrStderr(), "events of their own", is.Elsewhere); err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), is, func(w io.Writer) error {
			if is.Missed {
				if _, err := fmt.Fprintln(w, "some after that cursor are kept no more"); err != nil {
					return err
				}
			}
			for _, e := range is.Events {
				if err := printEvent(w, out, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

// follow hands on events as they come, until the command is ended.
func (c *adminClient) follow(cmd *cobra.Command, after string, f func(api.Event) error) error {
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	resp, err := c.send(cmd.Context(), api.Read, http.MethodGet, "/events/stream", query, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			if lines.Text() == "event: missed" {
				if _, err := fmt.Fprintln(cmd.ErrOrStderr(), "some events are kept no more"); err != nil {
					return err
				}
			}
			continue
		}
		var e api.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("%s: its answer is not that of a control plane: %w", c.flags.address, err)
		}
		if e.Kind == "" {
			continue
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if cmd.Context().Err() != nil {
		return nil
	}
	return noAnswerError{errors.Join(fmt.Errorf("the control plane at %s has ended the stream", c.flags.address), lines.Err())}
}

func printEvent(w io.Writer, out *output, e api.Event) error {
	if out.form != "table" {
		return json.NewEncoder(w).Encode(e)
	}
	of := ""
	for _, part := range []struct{ word, value string }{{"", e.Node}, {"of ", e.Service}, {"by ", e.Operator}, {"revision ", e.Revision}, {"from ", e.Source}} {
		if part.value != "" {
			of += " " + part.word + clean(part.value)
		}
	}
	_, err := fmt.Fprintf(w, "%s  %-16s%s: %s\n", e.Time.Local().Format(time.DateTime), e.Kind, of, clean(e.Message))
	return err
}
