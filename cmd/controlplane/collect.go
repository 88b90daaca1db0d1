package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
)

// maxDumped bounds the proxies whose resources are collected: those that are not SYNCED
// first.
const maxDumped = 20

func newCollectCommand() *cobra.Command {
	var server adminFlags
	var file string
	cmd := &cobra.Command{
		Use:   "collect -o FILE.tar.gz",
		Short: "Put what the control plane shows of itself into one file, for those who help",
		Long: "collect asks for all that the API shows: status, proxies, registrations, replicas, removals, certificates, events,\n" +
			"findings, checks, the mesh files that were in force, metrics, and what up to 20 proxies are served. The API shows\n" +
			"no key and no token of the control plane, so none is in the file. Names, addresses and the mesh file are, and in\n" +
			"what proxies are served the values taken from the environment (${VAR}).",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			client, err := server.client()
			if err != nil {
				return err
			}
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			b := newBundle(f)
			if err := b.collect(cmd.Context(), client); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d files\n", file, b.files)
			return errors.Join(err, b.close())
		},
	}
	server.add(cmd)
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write, which is not there yet")
	require(cmd, "output")
	return cmd
}

// bundle is the file that is written.
type bundle struct {
	zip   *gzip.Writer
	tar   *tar.Writer
	files int
}

func newBundle(w io.Writer) *bundle {
	b := &bundle{zip: gzip.NewWriter(w)}
	b.tar = tar.NewWriter(b.zip)
	return b
}

func (b *bundle) close() error { return errors.Join(b.tar.Close(), b.zip.Close()) }

func (b *bundle) add(name string, data []byte) error {
	b.files++
	if err := b.tar.WriteHeader(&tar.Header{Name: "controlplane/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: time.Now()}); err != nil {
		return err
	}
	_, err := b.tar.Write(data)
	return err
}

// addJSON adds what somebody answered, or why they did not.
func (b *bundle) addJSON(name string, v any, err error) error {
	if silent := new(noAnswerError); errors.As(err, silent) {
		return err
	}
	if err != nil {
		return b.add(name+".error", []byte(err.Error()+"\n"))
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return b.add(name+".json", append(data, '\n'))
}

func (b *bundle) collect(ctx context.Context, client *adminClient) error {
	whole := url.Values{"limit": {strconv.Itoa(api.MaxPage)}}
	for _, one := range []struct {
		path  string
		query url.Values
	}{
		{"/status", nil},
		{"/replicas", nil},
		{"/registrations", nil},
		{"/removals", nil},
		{"/certificates", whole},
		{"/events", whole},
		{"/findings", nil},
		{"/checks", nil},
		{"/revisions", nil},
	} {
		var answer json.RawMessage
		err := client.get(ctx, one.path, one.query, &answer)
		if err := b.addJSON(strings.TrimPrefix(one.path, "/"), answer, err); err != nil {
			return err
		}
	}
	metrics, err := client.raw(ctx, "/metrics")
	if err != nil {
		return err
	}
	if err := b.add("metrics.txt", metrics); err != nil {
		return err
	}
	var revisions api.Revisions
	if err := client.get(ctx, "/revisions", nil, &revisions); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, r := range revisions.Revisions {
		if seen[r.Revision] {
			continue
		}
		seen[r.Revision] = true
		var files json.RawMessage
		err := client.get(ctx, "/revisions/"+r.Revision, nil, &files)
		if err := b.addJSON("revisions/"+r.Revision, files, err); err != nil {
			return err
		}
	}
	return b.proxies(ctx, client)
}

func (b *bundle) proxies(ctx context.Context, client *adminClient) error {
	proxies, err := client.proxies(ctx, "")
	if err := b.addJSON("proxies", proxies, err); err != nil {
		return err
	}
	n := 0
	for _, unhealthy := range []bool{true, false} {
		for _, p := range proxies {
			if n == maxDumped || (p.State() != api.Synced) != unhealthy {
				continue
			}
			n++
			var answer json.RawMessage
			err := client.get(ctx, "/proxies/"+url.PathEscape(p.Node)+"/resources", nil, &answer)
			if err := b.addJSON("resources/"+strconv.Itoa(n)+"-"+fileName(p.Node), answer, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileName is a name that a proxy chose, as one that a file may have.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, s[:min(len(s), 100)])
}

// raw asks for a path beside the API.
func (c *adminClient) raw(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.sendTo(ctx, api.Read, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}
