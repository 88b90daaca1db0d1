//go:build component

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"datapunk.dev/controlplane/e2e/run"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

// victim is a control plane in a process of its own, so that its memory, its
// CPU and its descriptors are its alone.
type victim struct {
	t      testing.TB
	dir    string
	pid    int
	xds    string // HOST:PORT
	admin  string // URL
	roots  *x509.CertPool
	tokens *token.Authority
	wait   func(limit time.Duration) (code int, err error) // until it has ended
}

// built is the program as it is shipped, built once. This test's own binary is
// none to measure: the race detector multiplies what each client costs by three.
var built = sync.OnceValues(func() (string, error) { return run.Build(programs) })

// startVictim serves a mesh of one service until the test ends. It may have so
// many descriptors; 0 is as many as this process may.
func startVictim(t testing.TB, descriptors int) *victim {
	t.Helper()
	return startVictimOf(t, inFile, descriptors)
}

// startVictimOf serves a mesh file, with more flags.
func startVictimOf(t testing.TB, mesh string, descriptors int, flags ...string) *victim {
	t.Helper()
	v := &victim{t: t, dir: t.TempDir()}
	for name, text := range map[string]string{
		"catalog.yaml": oneService,
		"mesh.yaml":    mesh,
	} {
		v.write(name, text)
	}
	ca, tokens, err := sds.Open(filepath.Join(v.dir, "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	v.tokens = tokens
	v.roots = x509.NewCertPool()
	v.roots.AppendCertsFromPEM(ca.Roots())

	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(v.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	limit := ""
	if descriptors > 0 {
		limit = fmt.Sprintf("ulimit -n %d; ", descriptors)
	}
	args := append([]string{
		"-c", limit + `exec "$0" "$@"`, program, "serve", "-f", filepath.Join(v.dir, "mesh.yaml"),
		"--data-dir", filepath.Join(v.dir, "data"), "--xds-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--log-format", "text",
	}, flags...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }() // what it ended with is in its state
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	v.wait = func(limit time.Duration) (code int, err error) {
		select {
		case <-ended:
			return cmd.ProcessState.ExitCode(), nil
		case <-time.After(limit):
			return 0, fmt.Errorf("it runs %s later", limit)
		}
	}
	serving := regexp.MustCompile(`msg=serving xds=(\S+) admin=(\S+)`)
	v.eventually("it serves", func() bool {
		found := serving.FindStringSubmatch(v.log())
		if found != nil {
			v.xds, v.admin = found[1], "http://"+found[2]
		}
		return found != nil
	})
	v.eventually("it is ready", func() bool { return strings.Contains(v.get("/readyz"), `"ready":true`) })
	return v
}

func (v *victim) write(name, text string) {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, name), []byte(strings.ReplaceAll(text, "%s", v.dir)), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func (v *victim) logFile() string { return filepath.Join(v.dir, "log") }

func (v *victim) log() string {
	text, err := os.ReadFile(v.logFile())
	if err != nil {
		v.t.Fatal(err)
	}
	return string(text)
}

// eventually waits until something is so, for as long as a busy machine may
// need.
func (v *victim) eventually(what string, is func() bool) {
	v.t.Helper()
	for began := time.Now(); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			v.t.Fatalf("not within 30s: %s; the end of the log:\n%s", what, tail(v.log()))
		}
	}
}

func tail(text string) string { return text[max(0, len(text)-4000):] }

// get returns a page of the admin address, over a connection of its own.
func (v *victim) get(path string) string {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get(v.admin + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// metric returns the sum of a metric's series.
func (v *victim) metric(name string) (sum float64) {
	for line := range strings.Lines(v.get("/metrics")) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if bare, _, _ := strings.Cut(series, "{"); bare == name || series == name {
			f, _ := strconv.ParseFloat(value, 64)
			sum += f
		}
	}
	return sum
}

// spent is what the process has used.
type spent struct {
	memory int           // the most that it ever had, in MB
	cpu    time.Duration // user and system
	files  int
}

func (v *victim) usage() (u spent) {
	v.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.pid))
	if err != nil {
		v.t.Fatalf("it is gone: %v; the end of the log:\n%s", err, tail(v.log()))
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if fields := strings.Fields(rest); len(fields) > 0 {
		kb, _ := strconv.Atoi(fields[0])
		u.memory = kb >> 10
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.pid))
	if err != nil {
		v.t.Fatal(err)
	}
	_, rest, _ = strings.Cut(string(stat), ") ")
	if fields := strings.Fields(rest); len(fields) > 12 {
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		u.cpu = time.Duration(user+system) * 10 * time.Millisecond
	}
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.pid))
	u.files = len(fds)
	return u
}

// attack runs something and returns what it cost the control plane.
func (v *victim) attack(name string, f func()) spent {
	v.t.Helper()
	before := v.usage()
	f()
	after := v.usage()
	cost := spent{memory: after.memory, cpu: after.cpu - before.cpu, files: after.files}
	v.t.Logf("%s: %d MB at most, %.1f s of CPU, %d descriptors", name, cost.memory, cost.cpu.Seconds(), cost.files)
	return cost
}

// token returns a token of a node of the service web.
func (v *victim) token(node string) string {
	v.t.Helper()
	token, err := v.tokens.Mint("web", node, time.Hour)
	if err != nil {
		v.t.Fatal(err)
	}
	return token
}

func (v *victim) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: v.roots, ServerName: "127.0.0.1", NextProtos: []string{"h2"}}
}

// dial returns a gRPC connection from an address of this machine, with a token
// if there is one. The caller closes it.
func (v *victim) dial(from, token string, options ...grpc.DialOption) *grpc.ClientConn {
	v.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	options = append(options,
		grpc.WithTransportCredentials(credentials.NewTLS(v.tlsConfig())),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }),
		grpc.WithNoProxy())
	if token != "" {
		options = append(options, grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(withToken(ctx, token), d, cc, method, opts...)
		}), grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(withToken(ctx, token), method, req, reply, cc, opts...)
		}))
	}
	conn, err := grpc.NewClient("passthrough:///"+v.xds, options...)
	if err != nil {
		v.t.Fatal(err)
	}
	return conn
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// serves asks for all clusters as a proxy that has just started, and tries again
// as one would.
func (v *victim) serves() {
	v.t.Helper()
	began := time.Now()
	var last error
	for time.Since(began) < 30*time.Second {
		if last = v.ask("web-1"); last == nil {
			v.t.Logf("a good client has its answer after %d ms", time.Since(began).Milliseconds())
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	v.t.Errorf("a good client has no answer after 30s: %v; the end of the log:\n%s", last, tail(v.log()))
}

func (v *victim) ask(node string) error {
	conn := v.dial("127.0.0.1", v.token(node))
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node, Cluster: "web"}, TypeUrl: clusterType}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// rawConn speaks HTTP/2 as no client would.
type rawConn struct {
	net.Conn
	out    *bufio.Writer
	framer *http2.Framer
	block  *strings.Builder
	hpack  *hpack.Encoder
	xds    string
	stream uint32
	closed atomic.Bool // by the server
}

// raw opens a connection and reads what comes, to no end.
func (v *victim) raw() (*rawConn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", v.xds, v.tlsConfig())
	if err != nil {
		return nil, err
	}
	r := &rawConn{Conn: c, out: bufio.NewWriterSize(c, 64<<10), block: &strings.Builder{}, xds: v.xds}
	r.hpack = hpack.NewEncoder(r.block)
	r.framer = http2.NewFramer(r.out, c)
	_, _ = r.out.WriteString(http2.ClientPreface)
	if err := r.framer.WriteSettings(); err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, c)
		r.closed.Store(true)
	}()
	return r, r.out.Flush()
}

// open begins a call and returns its stream.
func (r *rawConn) open(method string, end bool, headers ...string) (uint32, error) {
	if r.stream == 0 {
		r.stream = 1
	} else {
		r.stream += 2
	}
	r.block.Reset()
	headers = append([]string{
		":method", "POST", ":scheme", "https", ":path", method, ":authority", r.xds,
		"content-type", "application/grpc", "te", "trailers",
	}, headers...)
	for i := 0; i < len(headers); i += 2 {
		if err := r.hpack.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1], Sensitive: true}); err != nil {
			return 0, err
		}
	}
	block := []byte(r.block.String())
	const most = 16 << 10
	first := block[:min(most, len(block))]
	err := r.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: r.stream, BlockFragment: first, EndStream: end, EndHeaders: len(first) == len(block),
	})
	for rest := block[len(first):]; err == nil && len(rest) > 0; {
		n := min(most, len(rest))
		err = r.framer.WriteContinuation(r.stream, n == len(rest), rest[:n])
		rest = rest[n:]
	}
	return r.stream, err
}
