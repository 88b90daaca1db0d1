package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/sds"
)

// answerTime bounds how long the control plane may take to answer, and maxAnswer the
// answer.
const (
	answerTime = 25 * time.Second
	maxAnswer  = 64 << 20
)

// ownTokenLife is that of the token which a command makes itself, beside the data
// directory: for the one request.
const ownTokenLife = time.Minute

// adminFlags say which control plane a command asks, and as whom.
type adminFlags struct {
	address, tokenFile, caFile, dataDir string
}

func (f *adminFlags) add(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.address, "admin-address", cmp.Or(os.Getenv("CONTROLPLANE_ADMIN_ADDRESS"), "127.0.0.1:19000"), "admin address of the control plane: HOST:PORT, https://HOST:PORT or unix:PATH ($CONTROLPLANE_ADMIN_ADDRESS)")
	flags.StringVar(&f.tokenFile, "token-file", os.Getenv("CONTROLPLANE_ADMIN_TOKEN_FILE"), "file with an operator's token, of controlplane admin-token ($CONTROLPLANE_ADMIN_TOKEN_FILE)")
	flags.StringVar(&f.caFile, "ca-file", os.Getenv("CONTROLPLANE_ADMIN_CA_FILE"), "root certificate of the control plane, over TLS (default ca.pem of the data directory; $CONTROLPLANE_ADMIN_CA_FILE)")
	flags.StringVar(&f.dataDir, "data-dir", "", "data directory of the control plane, whose user needs no token file (default $CONTROLPLANE_DATA_DIR, $STATE_DIRECTORY, else ./data)")
}

// adminClient asks a control plane.
type adminClient struct {
	flags *adminFlags
	base  string // URL without a path
	http  *http.Client
	tls   bool
}

// client returns what asks the control plane of the flags.
func (f *adminFlags) client() (*adminClient, error) {
	c := &adminClient{flags: f, http: &http.Client{}}
	transport := &http.Transport{DisableCompression: true}
	c.http.Transport = transport
	if path, ok := strings.CutPrefix(f.address, "unix:"); ok {
		c.base = "http://unix"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return c, nil
	}
	address, secure := strings.CutPrefix(f.address, "https://")
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usageError{fmt.Errorf("--admin-address: %w", err)}
	}
	if !secure && (localOnly(address) || strings.HasPrefix(address, "localhost:")) {
		c.base = "http://" + address
		return c, nil
	}
	file := cmp.Or(f.caFile, filepath.Join(dataDirectory(f.dataDir), "ca.pem"))
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file %s: no certificate is in it", file)
	}
	c.base, c.tls = "https://"+address, true
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	return c, nil
}

// get and act are those of a client for one call.
func (f *adminFlags) get(ctx context.Context, path string, query url.Values, answer any) error {
	return f.once(func(c *adminClient) error { return c.get(ctx, path, query, answer) })
}

func (f *adminFlags) act(ctx context.Context, path string, body, answer any) error {
	return f.once(func(c *adminClient) error { return c.act(ctx, path, body, answer) })
}

// do has something done, and prints what was.
func (f *adminFlags) do(cmd *cobra.Command, path string, body any) error {
	var done api.Done
	if err := f.act(cmd.Context(), path, body, &done); err != nil {
		return err
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), done.Done)
	return err
}

func (f *adminFlags) once(call func(*adminClient) error) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	return call(c)
}

// get asks for what stands at a path of the API.
func (c *adminClient) get(ctx context.Context, path string, query url.Values, answer any) error {
	return c.call(ctx, api.Read, http.MethodGet, path, query, nil, answer)
}

// ask sends something to have it looked at.
func (c *adminClient) ask(ctx context.Context, path string, body, answer any) error {
	return c.call(ctx, api.Read, http.MethodPost, path, nil, body, answer)
}

// act has something done.
func (c *adminClient) act(ctx context.Context, path string, body, answer any) error {
	return c.call(ctx, api.Operate, http.MethodPost, path, nil, body, answer)
}

func (c *adminClient) call(ctx context.Context, role api.Role, method, path string, query url.Values, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := c.send(ctx, role, method, path, query, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return noAnswerError{fmt.Errorf("the control plane at %s: %w", c.flags.address, err)}
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s: its answer is not that of a control plane: %w", c.flags.address, err)
	}
	return nil
}

// send sends a request that takes a role, and returns a response that is a success.
func (c *adminClient) send(ctx context.Context, role api.Role, method, path string, query url.Values, body any) (*http.Response, error) {
	address := c.base + api.Prefix + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	return c.sendTo(ctx, role, method, address, body)
}

func (c *adminClient) sendTo(ctx context.Context, role api.Role, method, address string, body any) (*http.Response, error) {
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, usageError{fmt.Errorf("--admin-address: %w", err)}
	}
	token, err := c.token(role)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, noAnswerError{fmt.Errorf("the control plane at %s does not answer: %w", c.flags.address, err)}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // the status tells enough
	failure := new(api.Error)
	if json.Unmarshal(text, failure) != nil || failure.Message == "" {
		return nil, fmt.Errorf("%s: %s", address, resp.Status)
	}
	return nil, failure
}

// token returns what a request is to show that takes a role: the token of the file, or
// where it takes one, one with no more than the role that the user of the data directory
// makes. Nothing is shown in the clear to another machine.
func (c *adminClient) token(role api.Role) (string, error) {
	if c.flags.tokenFile != "" {
		text, err := os.ReadFile(c.flags.tokenFile)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	if role == api.Read && !c.tls {
		return "", nil
	}
	tokens, err := sds.OpenTokens(dataDirectory(c.flags.dataDir))
	if err != nil {
		if role == api.Read {
			return "", errors.New("over TLS each call takes a token: --token-file, of controlplane admin-token")
		}
		return "", nil // the control plane says whether it takes one
	}
	name := "the data directory's user"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return tokens.MintOperator(name, string(role), ownTokenLife)
}

// proxies returns those of a service, or with "" all, page by page.
func (c *adminClient) proxies(ctx context.Context, service string) ([]api.Proxy, error) {
	all := []api.Proxy{}
	query := url.Values{"limit": {strconv.Itoa(api.MaxPage)}}
	if service != "" {
		query.Set("service", service)
	}
	for {
		var part api.Proxies
		if err := c.get(ctx, "/proxies", query, &part); err != nil {
			return nil, err
		}
		all = append(all, part.Proxies...)
		if part.Next == "" {
			return all, nil
		}
		query.Set("after", part.Next)
	}
}

// complete completes names of services or proxies, as the control plane knows them. One
// that does not answer has none.
func (f *adminFlags) complete(kind string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		client, err := f.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), completeTime)
		defer cancel()
		var names api.Names
		if err := client.get(ctx, "/names", url.Values{"kind": {kind}, "prefix": {prefix}}, &names); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names.Names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTime bounds how long somebody waits who has pressed Tab.
const completeTime = 2 * time.Second

// printElsewhere says which other replicas there are to ask, beside the answer.
func printElsewhere(w io.Writer, what string, all []api.Elsewhere) error {
	if len(all) == 0 {
		return nil
	}
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = fmt.Sprintf("%s (xDS at %s, %d proxies)", r.Replica, cmp.Or(r.Address, "no network"), r.Proxies)
	}
	_, err := fmt.Fprintf(w, "the other replicas have %s: ask %s\n", what, strings.Join(names, ", "))
	return err
}
