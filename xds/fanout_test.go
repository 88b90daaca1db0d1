package xds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/resource"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// BenchmarkFanOut is the engine behind grpc-go on loopback, a connection a
// stream. The clients are a process of their own, so all figures are the
// server's. Each stream asks for all clusters and for the assignments of its
// scope; then one endpoint changes, again and again. One operation is one
// change, to its last ACK.
//
//	go test ./xds -run '^$' -bench FanOut/streams=2000 -benchtime 20x
func BenchmarkFanOut(b *testing.B) {
	for _, f := range []fleet{
		{Streams: 200, Services: 100},
		{Streams: 2000, Services: 1000},
		{Streams: 2000, Services: 1000, SotW: true},
		{Streams: 2000, Services: 1000, Scope: 10},
		{Streams: 10_000, Services: 1000},
	} {
		b.Run(f.String(), f.bench)
	}
}

// fleet is what the process of the clients is told.
type fleet struct {
	Address           string
	Streams, Services int
	Scope             int // assignments of a stream; 0: all
	SotW              bool
}

const fleetVariable = "XDS_TEST_FLEET"

func (f fleet) String() string {
	s := fmt.Sprintf("streams=%d/services=%d", f.Streams, f.Services)
	if f.Scope > 0 {
		s += fmt.Sprintf("/scope=%d", f.Scope)
	}
	if f.SotW {
		s += "/SotW"
	}
	return s
}

// names returns what the ith stream asks for.
func (f fleet) names(i int) []string {
	n := f.Scope
	if n == 0 {
		n = f.Services
	}
	names := make([]string, n)
	for j := range names {
		names[j] = fmt.Sprintf("service-%04d", (i*f.Scope+j)%f.Services)
	}
	return names
}

// subscribers returns how many streams asked for a service.
func (f fleet) subscribers(service string) (n int) {
	if f.Scope == 0 {
		return f.Streams
	}
	for i := range f.Streams {
		for _, name := range f.names(i) {
			if name == service {
				n++
			}
		}
	}
	return n
}

func (f fleet) bench(b *testing.B) {
	s := testServer(func(o *Options) { o.Limits = Limits{StreamRate: 1e6, StreamBurst: 1e6} })
	w, names := benchWorld(s, f.Services)
	f.Address = serveGRPC(b, s).String()
	debug.FreeOSMemory()
	empty, cpu, rss := memStats(), cpuTime(), residentSet()

	total := func(m *prometheus.CounterVec) int {
		return int(testutil.ToFloat64(m.WithLabelValues("cluster")) + testutil.ToFloat64(m.WithLabelValues("endpoint")))
	}
	// settle waits until so many responses were sent, and all are acknowledged.
	settle := func(pushes int) {
		for total(s.metrics.pushes) < pushes || total(s.metrics.acks) < total(s.metrics.pushes) {
			time.Sleep(time.Millisecond)
		}
	}
	start := time.Now()
	f.start(b)
	settle(2 * f.Streams)
	syncTime, syncCPU := time.Since(start), cpuTime()-cpu
	time.Sleep(time.Second)
	runtime.GC()
	runtime.GC()
	full, fullRSS := memStats(), residentSet()

	b.ReportAllocs()
	cpu = cpuTime()
	for n := 0; b.Loop(); n++ {
		name := names[n%len(names)]
		want := total(s.metrics.pushes) + f.subscribers(name)
		w.put(assignmentOf(name, strconv.Itoa(n+2))).publish()
		settle(want)
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(syncCPU.Seconds(), "sync-cpu-s")
	b.ReportMetric(syncTime.Seconds(), "sync-s")
	per := func(before, after uint64) float64 {
		return float64(int64(after)-int64(before)) / 1024 / float64(f.Streams)
	}
	b.ReportMetric(per(empty.HeapAlloc, full.HeapAlloc), "heap-KB/stream")
	b.ReportMetric(per(empty.StackInuse, full.StackInuse), "stack-KB/stream")
	b.ReportMetric(per(rss, fullRSS), "rss-KB/stream")
}

// start runs the clients until the benchmark ends.
func (f fleet) start(b *testing.B) {
	b.Helper()
	spec, err := json.Marshal(f)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fleetVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// beFleet is the process of the clients.
func beFleet(spec string) {
	var f fleet
	if err := json.Unmarshal([]byte(spec), &f); err != nil {
		panic(err)
	}
	var streams sync.WaitGroup
	for i := range f.Streams {
		streams.Go(func() {
			if err := f.follow(i); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
		if i%100 == 99 {
			time.Sleep(20 * time.Millisecond) // the queue of a listener is short
		}
	}
	streams.Wait()
}

// follow acknowledges whatever comes on one stream.
func (f fleet) follow(i int) error {
	conn, err := grpc.NewClient(f.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	p := delta
	if f.SotW {
		p = sotw
	}
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method(p, ""))
	if err != nil {
		return err
	}
	names := f.names(i)
	node := &corepb.Node{Id: strconv.Itoa(i), Cluster: "nexus"}
	for _, t := range []resource.Type{cds, eds} {
		if err := tell(stream, f.request(t, node, names, "", "")); err != nil {
			return err
		}
		node = nil
	}
	for {
		var b []byte
		if err := stream.RecvMsg(&b); err != nil {
			if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "EOF") {
				return nil
			}
			return err
		}
		var version, typeURL, nonce string
		eachField(b, func(number protowire.Number, v []byte) {
			switch number {
			case versionField:
				version = string(v)
			case typeURLField:
				typeURL = string(v)
			case nonceField:
				nonce = string(v)
			}
		})
		t, _ := resource.TypeOf(typeURL)
		if p == delta {
			err = tell(stream, &discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce})
		} else {
			err = tell(stream, f.request(t, nil, names, version, nonce))
		}
		if err != nil && !errors.Is(err, io.EOF) { // the next read says why
			return err
		}
	}
}

func (f fleet) request(t resource.Type, node *corepb.Node, names []string, version, nonce string) proto.Message {
	if t == cds {
		names = nil
	}
	if f.SotW {
		return &discovery.DiscoveryRequest{Node: node, TypeUrl: t.URL(), ResourceNames: names, VersionInfo: version, ResponseNonce: nonce}
	}
	return &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: t.URL(), ResourceNamesSubscribe: names}
}

func tell(stream grpc.ClientStream, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return stream.SendMsg(&b)
}

func memStats() (m runtime.MemStats) {
	runtime.ReadMemStats(&m)
	return m
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentSet returns the memory of the process, in bytes.
func residentSet() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		panic(err)
	}
	return kb << 10
}
