// Package app is a service for tests and for the demo: one server that runs
// in the calling process, answers HTTP/1, HTTP/2 without TLS, gRPC and
// WebSocket on one loopback port, says what it received, and misbehaves when
// it is told to. It knows nothing of Envoy or of the control plane.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
)

// Reply is what the app answers on every path that has no meaning of its own.
type Reply struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Method   string `json:"method"`
	Path     string `json:"path"` // with the query, as it arrived
	Host     string `json:"host"`
	Protocol string `json:"protocol"`
	// Headers are those that a sidecar may set, by lower-case name.
	Headers map[string]string `json:"headers"`
}

// echoed are the request headers that a Reply shows.
var echoed = []string{
	"x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent",
	"x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms", "x-envoy-original-path",
	"x-version", "x-mesh-mirror",
}

// Behavior is how the app answers. The zero value: at once, with 200.
type Behavior struct {
	FailRate   float64       // share of requests answered with FailStatus, evenly spread
	FailStatus int           // 503 if 0
	Delay      time.Duration // before each answer
	Hang       bool          // no answer until the caller goes away or the behavior changes
	Headers    http.Header   // added to each answer
}

// Arrival is one request as the app saw it.
type Arrival struct {
	At     time.Time
	Method string
	Path   string
	Host   string
	Header http.Header
	Status int // answered; 0 if the caller went away first
}

// App is a running service. Its methods may be called at any time.
type App struct {
	service, instance string
	port              int

	mu       sync.Mutex
	behavior Behavior
	changed  chan struct{} // closed when behavior changes
	asked    int           // requests under this behavior
	failed   int
	arrivals []Arrival
	server   *http.Server
	grpc     *grpc.Server
	listener net.Listener
	serving  sync.WaitGroup
}

// Start listens on 127.0.0.1:port and serves. Port 0 takes a free one.
func Start(service, instance string, port int) (*App, error) {
	a := &App{service: service, instance: instance, port: port, changed: make(chan struct{})}
	if err := a.Revive(); err != nil {
		return nil, err
	}
	return a, nil
}

// Service returns the name that the app answers with.
func (a *App) Service() string { return a.service }

// Instance returns the id that the app answers with.
func (a *App) Instance() string { return a.instance }

// Port returns where the app listens, or listened before it died.
func (a *App) Port() int { return a.port }

// Addr returns host and port.
func (a *App) Addr() string { return fmt.Sprintf("127.0.0.1:%d", a.port) }

// Behave replaces the behavior, for requests under way too.
func (a *App) Behave(b Behavior) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.behavior, a.asked, a.failed = b, 0, 0
	close(a.changed)
	a.changed = make(chan struct{})
}

// Die closes the port and every connection.
func (a *App) Die() {
	a.mu.Lock()
	server, streams := a.server, a.grpc
	a.server, a.grpc, a.listener = nil, nil, nil
	a.mu.Unlock()
	if server == nil {
		return
	}
	_ = server.Close() // the error is that of a port already closed
	streams.Stop()
	a.serving.Wait()
}

// Revive listens again on the same port after [App.Die].
func (a *App) Revive() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil {
		return errors.New("app: it is alive")
	}
	l, err := net.Listen("tcp", a.Addr())
	if err != nil {
		return fmt.Errorf("app %s: %w", a.instance, err)
	}
	a.port = l.Addr().(*net.TCPAddr).Port
	a.listener, a.grpc = l, a.newGRPC()
	a.server = &http.Server{Handler: a.handler(a.grpc), ReadHeaderTimeout: 10 * time.Second}
	a.server.Protocols = new(http.Protocols)
	a.server.Protocols.SetHTTP1(true)
	a.server.Protocols.SetUnencryptedHTTP2(true)
	server := a.server
	a.serving.Go(func() { _ = server.Serve(l) }) // always an error: the server was closed
	return nil
}

// Count returns how many requests arrived.
func (a *App) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.arrivals)
}

// Arrivals returns the requests in the order of their arrival.
func (a *App) Arrivals() []Arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Arrival(nil), a.arrivals...)
}

// Forget empties the count and the arrivals.
func (a *App) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals = nil
}

func (a *App) handler(streams *grpc.Server) http.Handler {
	// Not a ServeMux: it would redirect a path that it finds unclean.
	sockets := websocket.Server{Handler: a.webSocket}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("content-type"), "application/grpc"):
			a.arrive(r, http.StatusOK)
			streams.ServeHTTP(w, r)
		case r.URL.Path == "/ws":
			sockets.ServeHTTP(w, r)
		case r.URL.Path == "/stream":
			a.quietStream(w, r)
		default:
			a.answer(w, r)
		}
	})
}

// answer misbehaves as told, and else says what it received.
func (a *App) answer(w http.ResponseWriter, r *http.Request) {
	n := a.arrive(r, 0)
	b, status, ok := a.decide(r.Context())
	if !ok {
		return
	}
	for name, values := range b.Headers {
		w.Header()[name] = values
	}
	reply := Reply{
		Service: a.service, Instance: a.instance, Method: r.Method, Path: r.RequestURI, Host: r.Host,
		Protocol: r.Proto, Headers: make(map[string]string),
	}
	for _, name := range echoed {
		if v := r.Header.Get(name); v != "" {
			reply.Headers[name] = v
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Instance", a.instance)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the caller may be gone
	a.answered(n, status)
}

// decide waits as the behavior says and returns the status. It is false when
// the caller has gone.
func (a *App) decide(ctx context.Context) (Behavior, int, bool) {
	for {
		a.mu.Lock()
		b, changed := a.behavior, a.changed
		a.mu.Unlock()
		if b.Hang {
			select {
			case <-ctx.Done():
				return b, 0, false
			case <-changed:
				continue
			}
		}
		if b.Delay > 0 {
			select {
			case <-ctx.Done():
				return b, 0, false
			case <-time.After(b.Delay):
			}
		}
		if a.fails() {
			if b.FailStatus == 0 {
				return b, http.StatusServiceUnavailable, true
			}
			return b, b.FailStatus, true
		}
		return b, http.StatusOK, true
	}
}

// fails spreads the failures evenly: of any n requests, the rate's share.
func (a *App) fails() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if due := int(math.Floor(float64(a.asked)*a.behavior.FailRate + 1e-9)); due > a.failed {
		a.failed = due
		return true
	}
	return false
}

func (a *App) arrive(r *http.Request, status int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals = append(a.arrivals, Arrival{
		At: time.Now(), Method: r.Method, Path: r.RequestURI, Host: r.Host, Header: r.Header.Clone(), Status: status,
	})
	return len(a.arrivals) - 1
}

func (a *App) answered(n, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n < len(a.arrivals) {
		a.arrivals[n].Status = status
	}
}

// quietStream sends its headers, nothing for ?silent=5s, and then one event.
func (a *App) quietStream(w http.ResponseWriter, r *http.Request) {
	a.arrive(r, http.StatusOK)
	silent, err := time.ParseDuration(r.URL.Query().Get("silent"))
	if err != nil {
		http.Error(w, "want ?silent=DURATION", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-time.After(silent):
		_, _ = fmt.Fprintf(w, "data: %s\n\n", a.instance) // the caller may be gone
	}
}

// webSocket sends back every message, the instance's id in front.
func (a *App) webSocket(ws *websocket.Conn) {
	a.arrive(ws.Request(), http.StatusSwitchingProtocols)
	for {
		var message string
		if err := websocket.Message.Receive(ws, &message); err != nil {
			return
		}
		if err := websocket.Message.Send(ws, a.instance+": "+message); err != nil {
			return
		}
	}
}
