package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // resolves xds:///

	"datapunk.dev/controlplane/e2e/app"
	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/internal/tool"
)

// asGRPCClient is set in a second process of these tests: an application with
// gRPC's own xDS client and without an Envoy. gRPC reads its settings from the
// environment, once for a process.
const asGRPCClient = "E2E_AS_GRPC_CLIENT"

// grpcAnswer is what the application says of a call: who answered, or how it
// failed.
type grpcAnswer struct {
	Instance string
	Code     codes.Code
	Error    string
}

// grpcClient is that application: it reads the names of services, a line each,
// calls them, and prints an answer for each.
func grpcClient() int {
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	conns := make(map[string]*grpc.ClientConn)
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		service := in.Text()
		if conns[service] == nil {
			if conns[service], err = grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(creds)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		reply, err := app.CallUnary(ctx, conns[service], "hello")
		cancel()
		a := grpcAnswer{Instance: strings.TrimSuffix(reply, ": hello"), Code: status.Code(err)}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return 1
		}
	}
	return 0
}

// proxyless is such an application.
type proxyless struct {
	t   *testing.T
	in  io.Writer
	out *json.Decoder
}

// startProxyless starts an application that is an instance of a service, with
// what `controlplane` makes for it: bootstrap, token, certificate.
func startProxyless(t *testing.T, m *harness.Mesh, service, id string, mtls bool) *proxyless {
	t.Helper()
	dir := filepath.Join(m.Dir, id)
	noError(t, os.MkdirAll(dir, 0o700))
	args := []string{"bootstrap", "grpc", "--service", service, "--node-id", id, "--xds-address", m.Plane.XDSAddress()}
	if mtls {
		token, svid := filepath.Join(dir, "token"), filepath.Join(dir, "svid")
		succeeds(t, m, "token", "--data-dir", filepath.Dir(m.Plane.CAFile()), "--service", service, "--node", id, "--jwt", "--out", token)
		startSVID(t, m, id, token, svid)
		args = append(args, "--ca-file", m.Plane.CAFile(), "--token-file", token, "--svid-dir", svid)
	} else {
		args = append(args, "--xds-plaintext")
	}
	bootstrap := filepath.Join(dir, "xds.json")
	noError(t, os.WriteFile(bootstrap, []byte(succeeds(t, m, args...)), 0o600))

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asGRPCClient+"=1", "GRPC_XDS_BOOTSTRAP="+bootstrap, "GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS=true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	noError(t, err)
	out, err := cmd.StdoutPipe()
	noError(t, err)
	noError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	})
	return &proxyless{t: t, in: in, out: json.NewDecoder(out)}
}

// startSVID starts `controlplane svid` beside the application, and waits for
// the certificate.
func startSVID(t *testing.T, m *harness.Mesh, id, token, dir string) {
	t.Helper()
	p, err := tool.Start(tool.Command{
		Name: id + "-svid", Path: harness.Binary(), Dir: m.Dir,
		Args: []string{"svid", "--xds-address", m.Plane.XDSAddress(), "--ca-file", m.Plane.CAFile(), "--token-file", token, "--out", dir},
	})
	noError(t, err)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("svid: %v", err)
		}
	})
	harness.Eventually(t, "the certificate of "+id, 10*time.Second, func() error {
		_, err := os.Stat(filepath.Join(dir, "svid.pem"))
		if err != nil {
			return fmt.Errorf("%w: %s", err, p.Log)
		}
		return nil
	})
}

// succeeds runs a subcommand and returns what it printed.
func succeeds(t *testing.T, m *harness.Mesh, args ...string) string {
	t.Helper()
	out := m.CLI(args...)
	if out.Code != 0 {
		t.Fatalf("controlplane %q: exit code %d: %s", args, out.Code, out.Stderr)
	}
	return out.Stdout
}

// call has the application call a service.
func (p *proxyless) call(service string) grpcAnswer {
	p.t.Helper()
	var a grpcAnswer
	if _, err := fmt.Fprintln(p.in, service); err != nil {
		p.t.Fatal(err)
	}
	if err := p.out.Decode(&a); err != nil {
		p.t.Fatal(err)
	}
	return a
}

// calls makes many calls, none of which may fail, and counts who answered.
func (p *proxyless) calls(service string, n int) map[string]int {
	p.t.Helper()
	by := make(map[string]int)
	for range n {
		a := p.call(service)
		if a.Code != codes.OK {
			p.t.Fatalf("%s: %+v", service, a)
		}
		by[a.Instance]++
	}
	return by
}
