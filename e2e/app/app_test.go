package app_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/e2e/app"
)

func start(t *testing.T) *app.App {
	t.Helper()
	a, err := app.Start("lake_service", "lake-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Die)
	return a
}

func get(t *testing.T, url string) (int, app.Reply) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var r app.Reply
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, r
}

func TestAppSaysWhatItReceived(t *testing.T) {
	a := start(t)
	status, r := get(t, "http://"+a.Addr()+"/a//b?x=1")
	if status != 200 || r.Service != "lake_service" || r.Instance != "lake-1" || r.Path != "/a//b?x=1" {
		t.Errorf("got %d %+v", status, r)
	}
	if a.Count() != 1 || a.Arrivals()[0].Status != 200 {
		t.Errorf("arrivals: %+v", a.Arrivals())
	}
}

func TestAppFailsAtItsRate(t *testing.T) {
	a := start(t)
	a.Behave(app.Behavior{FailRate: 0.25})
	failed := 0
	for range 20 {
		if status, _ := get(t, "http://"+a.Addr()); status == 503 {
			failed++
		}
	}
	if failed != 5 {
		t.Errorf("%d of 20 failed, want 5", failed)
	}
}

func TestAppHangsUntilToldOtherwise(t *testing.T) {
	a := start(t)
	a.Behave(app.Behavior{Hang: true})
	time.AfterFunc(100*time.Millisecond, func() { a.Behave(app.Behavior{}) })
	began := time.Now()
	if status, _ := get(t, "http://"+a.Addr()); status != 200 || time.Since(began) < 100*time.Millisecond {
		t.Errorf("status %d after %s", status, time.Since(began))
	}
}

func TestAppDiesAndLivesAgainOnItsPort(t *testing.T) {
	a := start(t)
	a.Die()
	if _, err := net.Dial("tcp", a.Addr()); err == nil {
		t.Error("the port is open after Die")
	}
	if err := a.Revive(); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, "http://"+a.Addr()); status != 200 {
		t.Errorf("status %d after Revive", status)
	}
}

func TestAppSpeaksGRPC(t *testing.T) {
	a := start(t)
	conn, err := grpc.NewClient(a.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got, err := app.CallUnary(ctx, conn, "hello"); err != nil || got != "lake-1: hello" {
		t.Errorf("Unary: %q, %v", got, err)
	}
	if got, err := app.CallQuiet(ctx, conn, 50*time.Millisecond); err != nil || got != "lake-1" {
		t.Errorf("Quiet: %q, %v", got, err)
	}
}

func TestAppSpeaksWebSocket(t *testing.T) {
	a := start(t)
	ws, err := websocket.Dial("ws://"+a.Addr()+"/ws", "", "http://"+a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	var got string
	if err := websocket.Message.Send(ws, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "lake-1: hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTCPSpeaksFirstAndEchoes(t *testing.T) {
	s, err := app.StartTCP(0, "hello\n")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Die()
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.Port()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "abc"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello\nabc" {
		t.Errorf("got %q, %v", got, err)
	}
	if s.Accepted() != 1 || s.Received() != 3 {
		t.Errorf("accepted %d, received %d", s.Accepted(), s.Received())
	}
}
