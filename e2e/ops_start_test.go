package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"datapunk.dev/controlplane/e2e/harness"
)

func TestEnvoyStartsBeforeTheControlPlane(t *testing.T) {
	m := harness.Start(t, harness.Options{}) // once, for tokens and the root
	var sidecars []*harness.Sidecar
	for _, spec := range []harness.Spec{{Service: "nexus", ID: "nexus-1"}, {Service: "lake_service", ID: "lake-1"}} {
		sidecars = append(sidecars, m.Prepare(spec))
	}
	if err := m.Plane.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, s := range sidecars {
		m.Launch(s)
	}
	for _, s := range sidecars {
		harness.Eventually(t, s.ID+" looks for its control plane", 10*time.Second, func() error {
			stats, err := s.Envoy.Stats()
			if err == nil && stats["cluster.xds.upstream_cx_connect_fail"] == 0 {
				err = errors.New("it has not tried")
			}
			return err
		})
		if err := s.Envoy.Ready(); err == nil {
			t.Errorf("%s is ready without a configuration", s.ID)
		}
		if c, err := net.Dial("tcp", s.Inbound()); err == nil {
			_ = c.Close()
			t.Errorf("%s has its port open without a certificate", s.ID)
		}
	}
	m.StartPlane()
	for _, s := range sidecars { // an instance is registered when it serves: see the health checks
		if err := s.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
			t.Fatal(err)
		}
		m.Register(s)
	}
	m.Ready()
	if r := m.Call("nexus-1", "lake_service", "/"); r.Status != 200 {
		t.Errorf("got %s", r)
	}
}

func TestControlPlaneStartsBeforeConsul(t *testing.T) {
	m := harness.New(t, harness.Options{Consul: true})
	if err := m.Consul.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := m.Plane.Start(); err != nil {
		t.Fatal(err)
	}
	pid := m.Plane.Pid()
	harness.Eventually(t, "/readyz says what it waits for", 10*time.Second, func() error {
		status, ready, err := m.Plane.Readyz()
		if err != nil {
			return err
		}
		if waiting := strings.Join(ready.Waiting, "\n"); status != 503 || ready.Ready || !strings.Contains(waiting, "list of services: connection refused") {
			return fmt.Errorf("/readyz: %d: %+v", status, ready)
		}
		return nil
	})
	if !strings.Contains(m.Plane.Log.String(), "connection refused") {
		t.Errorf("the log does not say why:\n%s", m.Plane.Log.Tail(10))
	}
	if status, body, err := m.Plane.Get("/sd/prometheus"); err != nil || status != 503 {
		t.Errorf("/sd/prometheus: %d %s, %v: Prometheus would forget the fleet", status, body, err)
	}
	if status, _, err := m.Plane.Get("/healthz"); err != nil || status != 200 {
		t.Errorf("/healthz: %d, %v", status, err)
	}

	// An Envoy that comes now is told to wait, and not that the mesh is empty.
	lake := m.Prepare(harness.Spec{Service: "lake_service", ID: "lake-1"})
	m.Launch(lake)
	harness.Eventually(t, "lake-1 is told to wait", 10*time.Second, func() error {
		stats, err := lake.Envoy.Stats()
		if err == nil && stats["cluster.xds.upstream_rq_total"] == 0 {
			err = errors.New("it has not asked")
		}
		return err
	})
	if err := lake.Envoy.Ready(); err == nil {
		t.Error("lake-1 is ready without a configuration")
	}
	for typ, n := range pushes(t, m) {
		if n != 0 {
			t.Errorf("%d responses of %s from a control plane that is not ready", n, typ)
		}
	}

	if err := m.Consul.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Plane.WaitReady(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := lake.Envoy.WaitReady(t.Context(), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	m.Register(lake)
	m.Ready()
	if r := m.Call("lake-1", "lake_service", "/"); r.Status != 200 {
		t.Errorf("got %s", r)
	}
	if m.Plane.Pid() != pid {
		t.Error("it was restarted")
	}
}
