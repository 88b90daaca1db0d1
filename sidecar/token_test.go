package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

const day = 24 * time.Hour

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes the data directory of a control plane.
func open(t *testing.T) (*sds.CA, *token.Authority) {
	t.Helper()
	ca, tokens, err := sds.Open(filepath.Join(t.TempDir(), "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	return ca, tokens
}

func mint(t *testing.T, tokens *token.Authority, life time.Duration) string {
	t.Helper()
	raw, err := tokens.Mint("web", "web-1", life)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// serveRenewal runs an xDS port that only renews tokens, and returns its address.
func serveRenewal(t *testing.T, network, address string, tokens *token.Authority, o ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(o...)
	token.RegisterRenewal(s, tokens, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func xdsTLS(t *testing.T, ca *sds.CA) grpc.ServerOption {
	t.Helper()
	m, err := sds.NewManager(ca, sds.Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	return grpc.Creds(credentials.NewTLS(m.ServerTLS()))
}

func clientOf(t *testing.T, ca *sds.CA) *TokenLoop {
	t.Helper()
	return &TokenLoop{CAPEM: ca.Roots(), File: filepath.Join(t.TempDir(), "token.yaml"), Log: slog.New(slog.DiscardHandler)}
}

func TestAValidTokenIsExchangedForTheNext(t *testing.T) {
	ca, tokens := open(t)
	address := serveRenewal(t, "tcp", "127.0.0.1:0", tokens, xdsTLS(t, ca))
	r := clientOf(t, ca)
	r.Addresses = []string{"127.0.0.1:1", address} // the first is dead
	creds, err := controlPlaneCredentials(r.CAPEM)
	if err != nil {
		t.Fatal(err)
	}
	old := mint(t, tokens, 90*time.Minute)
	next, err := r.call(t.Context(), creds, old)
	if err != nil {
		t.Fatal(err)
	}
	was, _ := tokens.Verify(old)
	is, err := tokens.Verify(next)
	if err != nil {
		t.Fatal(err)
	}
	if is.Service != "web" || is.Node != "web-1" || is.Expires.Sub(is.Issued) != 90*time.Minute || is.ID == was.ID {
		t.Errorf("was %+v, is %+v", was, is)
	}
}

func TestRenewalOverAUnixSocket(t *testing.T) {
	ca, tokens := open(t)
	path := filepath.Join(t.TempDir(), "xds.sock")
	serveRenewal(t, "unix", path, tokens, xdsTLS(t, ca))
	r := clientOf(t, ca)
	r.Addresses = []string{"unix:" + path}
	creds, err := controlPlaneCredentials(r.CAPEM)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.call(t.Context(), creds, mint(t, tokens, day)); err != nil {
		t.Error(err)
	}
}

func TestATokenIsShownOnlyToTheControlPlane(t *testing.T) {
	ca, tokens := open(t)
	other, _ := open(t)
	// A proxy of the mesh that poses as the xDS port has a certificate of the
	// same root, but not that name.
	own := secretOf(t, ca, "web").GetTlsCertificate()
	proxy, err := tls.X509KeyPair(own.GetCertificateChain().GetInlineBytes(), own.GetPrivateKey().GetInlineBytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		creds grpc.ServerOption
		want  string
	}{
		"another root":       {xdsTLS(t, other), "unknown authority"},
		"a proxy's identity": {grpc.Creds(credentials.NewServerTLSFromCert(&proxy)), "unexpected ID"},
		"no TLS":             {grpc.Creds(insecure.NewCredentials()), "does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			r := clientOf(t, ca)
			r.Addresses = []string{serveRenewal(t, "tcp", "127.0.0.1:0", tokens, tt.creds)}
			creds, err := controlPlaneCredentials(r.CAPEM)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.call(t.Context(), creds, mint(t, tokens, day))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// loopAt runs a TokenLoop in the bubble against the authority itself.
func loopAt(t *testing.T, r *TokenLoop, exchange func(old string) (string, error)) <-chan error {
	t.Helper()
	r.exchange = func(_ context.Context, old string) (string, error) { return exchange(old) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(cancel)
	return done
}

func TestTheLoopRenewsAtHalfOfTheTokensLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, tokens := open(t)
		r := clientOf(t, ca)
		if err := token.WriteSecretFile(r.File, mint(t, tokens, time.Hour)); err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		loopAt(t, r, func(old string) (string, error) {
			calls.Add(1)
			c, err := tokens.Verify(old)
			if err != nil {
				return "", err
			}
			return tokens.Mint(c.Service, c.Node, c.Expires.Sub(c.Issued))
		})
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		if calls.Load() != 0 {
			t.Error("renewed before half of its life")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d renewals at half of its life", calls.Load())
		}
		time.Sleep(day)
		synctest.Wait()
		raw, err := token.ReadSecretFile(r.File)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.Verify(raw); err != nil {
			t.Errorf("a day later: %v", err)
		}
		if n := calls.Load(); n < 47 || n > 50 {
			t.Errorf("%d renewals in a day", calls.Load())
		}
	})
}

func TestTheLoopOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, tokens := open(t)
		r := clientOf(t, ca)
		var log bytes.Buffer
		r.Log = slog.New(slog.NewTextHandler(&log, nil))
		old := mint(t, tokens, time.Hour)
		if err := token.WriteSecretFile(r.File, old); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var calls atomic.Int64
		next := ""
		loopAt(t, r, func(string) (string, error) {
			calls.Add(1)
			if time.Since(start) < 50*time.Minute {
				return "", errors.New("connection refused")
			}
			next = mint(t, tokens, time.Hour)
			return next, nil
		})
		time.Sleep(55 * time.Minute)
		synctest.Wait()
		if got, err := token.ReadSecretFile(r.File); err != nil || got != next || next == "" {
			t.Errorf("not renewed after the outage: %v", err)
		}
		if calls.Load() > 60 {
			t.Errorf("%d attempts in 20 minutes", calls.Load())
		}
		if s := log.String(); !strings.Contains(s, "connection refused") || strings.Contains(s, old) || strings.Contains(s, next) {
			t.Errorf("log:\n%s", s)
		}
	})
}

func TestTheLoopStopsWhenOnlyAnOperatorCanHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, tokens := open(t)
		r := clientOf(t, ca)
		if err := token.WriteSecretFile(r.File, mint(t, tokens, time.Hour)); err != nil {
			t.Fatal(err)
		}
		done := loopAt(t, r, func(string) (string, error) { return "", errors.New("down") })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "mint a new one") {
				t.Errorf("error %v", err)
			}
		default:
			t.Error("it still tries, with an expired token")
		}
	})
}

func TestATokenThatAnOperatorReplacesIsNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, tokens := open(t)
		r := clientOf(t, ca)
		if err := token.WriteSecretFile(r.File, mint(t, tokens, time.Hour)); err != nil {
			t.Fatal(err)
		}
		operators := mint(t, tokens, 30*day)
		loopAt(t, r, func(string) (string, error) {
			if err := token.WriteSecretFile(r.File, operators); err != nil {
				return "", err
			}
			return tokens.Mint("web", "web-1", time.Hour)
		})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got, err := token.ReadSecretFile(r.File); err != nil || got != operators {
			t.Errorf("the operator's token is gone: %v", err)
		}
	})
}

func TestALateControlPlaneIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, _ := open(t)
		r := clientOf(t, ca)
		late := func() string {
			issued := time.Now().Add(-50 * time.Minute)
			raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
				IssuedAt: jwt.NewNumericDate(issued), ExpiresAt: jwt.NewNumericDate(issued.Add(time.Hour)),
			}).SignedString([]byte("not looked at"))
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		if err := token.WriteSecretFile(r.File, late()); err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		loopAt(t, r, func(string) (string, error) {
			calls.Add(1)
			return late(), nil
		})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d renewals in 5 minutes", calls.Load())
		}
	})
}
