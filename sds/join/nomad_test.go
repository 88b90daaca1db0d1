package join

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// nomadKeys are a key of each algorithm, and the JWKS of them.
type nomadKeys struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newNomadKeys(t testing.TB) (k nomadKeys, jwks []byte) {
	t.Helper()
	var err, err2, err3 error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, err2 = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, err3 = ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &k.rsa.PublicKey, KeyID: "r", Algorithm: "RS256", Use: "sig"},
		{Key: &k.ec.PublicKey, KeyID: "e", Algorithm: "ES256", Use: "sig"},
		{Key: k.ed.Public(), KeyID: "d", Algorithm: "EdDSA", Use: "sig"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return k, jwks
}

func identityOf(t testing.TB, method jwt.SigningMethod, kid string, key any, change func(jwt.MapClaims)) string {
	t.Helper()
	now := time.Now()
	c := jwt.MapClaims{
		"aud": []string{"controlplane"}, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "sub": "global:default:lake:lake:x",
		"nomad_namespace": "default", "nomad_job_id": "lake-job", "nomad_task_group": "lake-group",
		"nomad_allocation_id": "af3f5a10-0000-4000-8000-000000000001", "nomad_service": "lake",
	}
	if change != nil {
		change(c)
	}
	token := jwt.NewWithClaims(method, c)
	token.Header["kid"] = kid
	raw, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func options(jwks string) NomadOptions {
	return NomadOptions{JWKS: jwks, Audience: "controlplane", Namespaces: []string{"default"}, Claim: ClaimService}
}

func TestAWorkloadIdentityIsOfItsServiceAndItsAllocation(t *testing.T) {
	k, jwks := newNomadKeys(t)
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	nomad, err := NewNomad(options(path))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"RS256": identityOf(t, jwt.SigningMethodRS256, "r", k.rsa, nil), "ES256": identityOf(t, jwt.SigningMethodES256, "e", k.ec, nil),
		"EdDSA": identityOf(t, jwt.SigningMethodEdDSA, "d", k.ed, nil),
	} {
		for _, r := range []Request{{}, {Service: "lake"}, {Service: "lake", Node: "lake-af3f5a10-0000-4000-8000-000000000001"}} {
			p, err := nomad.Prove(t.Context(), raw, r)
			if err != nil || p.Service != "lake" || p.Node != "lake-af3f5a10-0000-4000-8000-000000000001" || p.TTL != nomadTTL {
				t.Errorf("%s: %+v: %+v, %v", name, r, p, err)
			}
		}
		for _, r := range []Request{{Service: "bank"}, {Node: "lake-1"}} {
			if p, err := nomad.Prove(t.Context(), raw, r); !errors.As(err, new(Refusal)) {
				t.Errorf("%s: %+v: %+v, %v", name, r, p, err)
			}
		}
	}
	// The service may be said by another claim.
	o := options(path)
	o.Claim = ClaimJob
	if nomad, err = NewNomad(o); err != nil {
		t.Fatal(err)
	}
	if p, err := nomad.Prove(t.Context(), identityOf(t, jwt.SigningMethodRS256, "r", k.rsa, nil), Request{}); err != nil || p.Service != "lake-job" {
		t.Errorf("%+v, %v", p, err)
	}
}

// Each is good but for one thing.
func TestHostileWorkloadIdentities(t *testing.T) {
	k, jwks := newNomadKeys(t)
	foreign, _ := newNomadKeys(t)
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	nomad, err := NewNomad(options(path))
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) string {
		return identityOf(t, jwt.SigningMethodRS256, "r", k.rsa, func(c jwt.MapClaims) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		})
	}
	for name, hostile := range map[string]string{
		"empty":                     "",
		"no algorithm":              identityOf(t, jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType, nil),
		"HS256 with the public key": identityOf(t, jwt.SigningMethodHS256, "r", k.rsa.N.Bytes(), nil),
		"another key":               identityOf(t, jwt.SigningMethodRS256, "r", foreign.rsa, nil),
		"the key of another kind":   identityOf(t, jwt.SigningMethodRS256, "e", k.rsa, nil),
		"an unknown key":            identityOf(t, jwt.SigningMethodRS256, "x", k.rsa, nil),
		"no kid":                    identityOf(t, jwt.SigningMethodRS256, "", k.rsa, nil),
		"RS512":                     identityOf(t, jwt.SigningMethodRS512, "r", k.rsa, nil),
		"another audience":          with("aud", "vault"),
		"no audience":               with("aud", nil),
		"expired":                   with("exp", time.Now().Add(-time.Second).Unix()),
		"no expiry":                 with("exp", nil),
		"from the future":           with("iat", time.Now().Add(time.Hour).Unix()),
		"not yet valid":             with("nbf", time.Now().Add(time.Hour).Unix()),
		"another namespace":         with("nomad_namespace", "dev"),
		"no namespace":              with("nomad_namespace", nil),
		"no allocation":             with("nomad_allocation_id", nil),
		"no service":                with("nomad_service", nil),
		"a service that is no text": with("nomad_service", 7),
		"too long":                  with("x", string(make([]byte, maxWorkload))),
	} {
		if p, err := nomad.Prove(t.Context(), hostile, Request{}); err == nil {
			t.Errorf("%s: it is %+v", name, p)
		}
	}
}

// TestKeysThatAreKnownGoOnWhileNomadIsAway, new ones are found, and unknown ones
// do not have Nomad asked without end.
func TestKeysThatAreKnownGoOnWhileNomadIsAway(t *testing.T) {
	k, jwks := newNomadKeys(t)
	later, laterJWKS := newNomadKeys(t)
	var asked atomic.Int64
	var answer atomic.Pointer[[]byte]
	answer.Store(&jwks)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if body := answer.Load(); body != nil {
			_, _ = w.Write(*body)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	nomad, err := NewNomad(options(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	nomad.now = func() time.Time { return now }
	prove := func(raw string) error {
		_, err := nomad.Prove(t.Context(), raw, Request{})
		return err
	}
	first, second := identityOf(t, jwt.SigningMethodRS256, "r", k.rsa, nil), identityOf(t, jwt.SigningMethodRS256, "r2", later.rsa, nil)
	for range 10 {
		if err := prove(first); err != nil {
			t.Fatal(err)
		}
		if err := prove(second); err == nil {
			t.Fatal("an unknown key")
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	answer.Store(nil)
	now = now.Add(keysAge + time.Second)
	if err := prove(first); err != nil {
		t.Errorf("while Nomad is away: %v", err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(laterJWKS, &set); err != nil {
		t.Fatal(err)
	}
	set.Keys[0].KeyID = "r2"
	rotated, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	answer.Store(&rotated)
	now = now.Add(keysPause)
	if err := prove(second); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := prove(first); err == nil {
		t.Error("the withdrawn key is believed")
	}
}
