package features

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/control"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/translate"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
	"datapunk.dev/controlplane/xds"
)

// mesh is a control plane with a mesh file and a catalog, and no disk, no Consul
// and no ports: clients reach it by pipes. Time is the test's.
type mesh struct {
	t       *testing.T
	loop    *control.Loop
	pipes   *pipes
	catalog *watch.Catalog
}

// inMesh runs a test in a mesh.
func inMesh(t *testing.T, file, catalog string, test func(m *mesh)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, pipes: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, catalog: watch.NewCatalog()}
		log := slog.New(slog.DiscardHandler)
		var server *xds.Server
		m.loop = control.NewLoop(log, func(_ *translate.Snapshot, served xds.Snapshot) { server.Publish(served) }, func(ctx context.Context) <-chan struct{} { return server.Acked(ctx, nil) })
		server = xds.New(xds.Options{Logger: log, OnFleet: m.loop.SetFleet})
		g := grpc.NewServer(server.ServerOptions()...)
		server.Register(g)
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = m.loop.Run(ctx) })
		running.Go(func() { _ = g.Serve(m.pipes) })
		defer func() {
			stop()
			g.Stop()
			running.Wait()
		}()
		roots, err := os.ReadFile("testdata/root.pem")
		if err != nil {
			t.Fatal(err)
		}
		m.loop.SetRoots(roots)
		m.edit(file)
		m.register(catalog)
		test(m)
	})
}

// edit puts a mesh file into force.
func (m *mesh) edit(text string) {
	m.t.Helper()
	parsed, err := policy.Parse([]policy.File{{Name: "mesh.yaml", Data: []byte(text)}}, policy.Options{
		LookupEnv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		m.t.Fatalf("%v\n%s", err, text)
	}
	m.loop.SetMesh(parsed)
	m.settle()
}

// register makes the catalog what a catalog file says.
func (m *mesh) register(text string) {
	m.t.Helper()
	services, err := file.Parse("catalog.yaml", []byte(text))
	if err != nil {
		m.t.Fatalf("%v\n%s", err, text)
	}
	there := make(map[string]bool)
	for _, s := range services {
		there[s.Name] = true
	}
	var gone []string
	for s := range m.catalog.Services() {
		if !there[s.Name] {
			gone = append(gone, s.Name)
		}
	}
	m.catalog = m.catalog.Update(services, gone)
	m.loop.SetCatalog(m.catalog)
	m.settle()
}

// settle lets all that is under way come to its end.
func (m *mesh) settle() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

// dial connects a client.
func (m *mesh) dial() *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:///control-plane",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.pipes.dial(ctx) }))
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// pipes is a listener whose connections stay inside of the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, errors.New("the control plane is gone")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, io.EOF
	}
}

// Close implements [net.Listener].
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements [net.Listener].
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// watch puts a mesh file into force, and looks often while it takes effect.
func (m *mesh) watch(look func(), text string) {
	m.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10_000 {
			look()
			time.Sleep(time.Millisecond)
		}
	}()
	m.edit(text)
	<-done
}
