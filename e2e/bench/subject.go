package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/internal/consulagent"
	"datapunk.dev/controlplane/sds"
)

// subject is a server under test, and what can be done to it.
type subject struct {
	kind     string
	xds      string // host and port
	creds    credentials.TransportCredentials
	sidecars bool // it serves Consul's sidecars, under Consul's names

	// prepare does beforehand what is not part of the comparison.
	prepare func(service, n int) error
	// change moves the first instance of a service to its nth place.
	change func(service, n int) error
	usage  func(after string) (usage, error)
	// profile has the server write a CPU profile to the file until the next
	// call; nil: it cannot.
	profile func(file string) error
	beside  *agent // where the catalog is; nil: in the server
	stop    func()
}

// startSubject starts a server of the kind for the world, which it completes.
// A kind is a server's name, and after a plus what is different about it:
//
//	ours, floor, snapshot, linear   the catalog is in the process
//	ours+tls, floor+tls             the same over TLS 1.3
//	ours+sotw, snapshot+sotw        the same, asked by the SotW variant
//	ours+consul                     the catalog is in a Consul beside
//	ours+agent                      the same, with an agent's default limits
//	consul                          Consul's own mesh
func startSubject(ctx context.Context, kind string, w *world) (*subject, error) {
	base, mode, _ := strings.Cut(kind, "+")
	if kind == "consul" {
		return startConsulMesh(ctx, *w)
	}
	var cleanup []func()
	stop := func() {
		for _, f := range cleanup {
			f()
		}
	}
	s, err := func() (*subject, error) {
		creds := insecure.NewCredentials()
		var beside *agent
		switch mode {
		case "":
		case "sotw":
			w.SotW = true
		case "tls":
			dir, err := os.MkdirTemp("", "bench-")
			if err != nil {
				return nil, err
			}
			cleanup = append(cleanup, func() { _ = os.RemoveAll(dir) })
			w.DataDir = dir
			if creds, err = clientTLS(dir); err != nil {
				return nil, err
			}
		case "consul", "agent":
			options := consulagent.Options{MaxConns: manyConns}
			if mode == "agent" {
				options.MaxConns = 0
			}
			a, err := startAgent(ctx, options)
			if err != nil {
				return nil, err
			}
			cleanup = append(cleanup, a.stop)
			if err := a.register(*w); err != nil {
				return nil, err
			}
			w.Consul, beside = a.HTTP, a
		default:
			return nil, fmt.Errorf("no server %q", kind)
		}
		s, err := startProcess(ctx, base, *w)
		if err != nil {
			return nil, err
		}
		cleanup = append([]func(){s.stop}, cleanup...)
		s.kind, s.creds = kind, creds
		if s.beside = beside; beside != nil {
			s.change = beside.change
		}
		s.stop = stop
		return s, nil
	}()
	if err != nil {
		stop()
	}
	return s, err
}

// clientTLS makes the authority of a server and returns how a proxy dials it.
func clientTLS(dir string) (credentials.TransportCredentials, error) {
	ca, _, err := sds.Open(dir, trustDomain)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		// As an Envoy does, the certificate is checked by its SPIFFE ID.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, c := range cs.PeerCertificates[1:] {
				options.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(options)
			return err
		},
	}), nil
}

// startProcess starts a server in a process of its own, so that its CPU and
// its memory are its alone. The kernel kills it if this process ends.
func startProcess(ctx context.Context, kind string, w world) (*subject, error) {
	spec, err := os.CreateTemp("", "bench-world-") // with 10,000 streams it is no argument
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(spec.Name()) }()
	if err := errors.Join(json.NewEncoder(spec).Encode(w), spec.Close()); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "--serve", kind, "--world", spec.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start: %w", kind, err), cmd.Wait())
	}
	addrs := strings.Fields(line)
	c := controls("http://" + addrs[1])
	return &subject{
		xds: addrs[0], prepare: c.mover("prepare"), change: c.mover("change"), usage: c.usage, profile: c.profile,
		stop: func() { _ = cmd.Process.Kill(); _ = cmd.Wait() },
	}, nil
}

// controls is the port of a server process where the bench says what it wants.
type controls string

// post uses connections again: at 1,000 changes a second that matters.
var controlClient = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: makers}}

func (c controls) do(method, what string, params url.Values, out any) error {
	req, err := http.NewRequest(method, string(c)+"/"+what+"?"+params.Encode(), http.NoBody) //nolint:noctx // on loopback, answered at once
	if err != nil {
		return err
	}
	resp, err := controlClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", what, text)
	case out != nil:
		return json.Unmarshal(text, out)
	}
	return nil
}

func (c controls) mover(what string) func(service, n int) error {
	return func(service, n int) error {
		return c.do(http.MethodPost, what, url.Values{"service": {strconv.Itoa(service)}, "n": {strconv.Itoa(n)}}, nil)
	}
}

func (c controls) usage(after string) (u usage, err error) {
	return u, c.do(http.MethodGet, "usage", url.Values{"after": {after}}, &u)
}

func (c controls) profile(file string) error {
	return c.do(http.MethodPost, "profile", url.Values{"file": {file}}, nil)
}
