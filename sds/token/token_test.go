package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const day = 24 * time.Hour

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(spiffeid.RequireTrustDomainFromString("datapunk"), key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mint(t *testing.T, tokens *Authority, service, node string, life time.Duration) string {
	t.Helper()
	raw, err := tokens.Mint(service, node, life)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestATokenProvesItsServiceAndItsNode(t *testing.T) {
	tokens := newAuthority(t)
	c, err := tokens.Verify(mint(t, tokens, "lake_service", "lake-1", 30*day))
	if err != nil {
		t.Fatal(err)
	}
	if c.Service != "lake_service" || c.Node != "lake-1" || c.ID == "" {
		t.Errorf("claims %+v", c)
	}
	if life := c.Expires.Sub(c.Issued); life != 30*day {
		t.Errorf("it lives %s", life)
	}
}

func TestATokenSaysWhatTheDocumentationSays(t *testing.T) {
	tokens := newAuthority(t)
	parts := strings.Split(mint(t, tokens, "web", "web-1", day), ".")
	var header, payload map[string]any
	for i, into := range []*map[string]any{&header, &payload} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	if header["alg"] != "ES256" || header["kid"] != tokens.keyID {
		t.Errorf("header %v", header)
	}
	for _, name := range []string{"iat", "nbf", "exp", "jti"} {
		if payload[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	if payload["iss"] != "datapunk" || payload["sub"] != "spiffe://datapunk/web" || payload["node"] != "web-1" {
		t.Errorf("payload %v", payload)
	}
}

func TestTokensThatAreNotMinted(t *testing.T) {
	tokens := newAuthority(t)
	tests := map[string]struct {
		service, node string
		life          time.Duration
	}{
		"the control plane's name": {"control-plane", "web-1", day},
		"no service":               {"", "web-1", day},
		"a path":                   {"a/b", "web-1", day},
		"no node":                  {"web", "", day},
		"a node with a line break": {"web", "a\nb", day},
		"a node of 257 bytes":      {"web", strings.Repeat("n", 257), day},
		"no life":                  {"web", "web-1", 0},
		"over a leap year":         {"web", "web-1", MaxTTL + time.Second},
	}
	for name, tt := range tests {
		if _, err := tokens.Mint(tt.service, tt.node, tt.life); err == nil {
			t.Errorf("%s: minted", name)
		}
	}
}

func TestATokenEndsToTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := newAuthority(t)
		raw := mint(t, tokens, "web", "web-1", time.Minute)
		time.Sleep(time.Minute - time.Nanosecond)
		if _, err := tokens.Verify(raw); err != nil {
			t.Errorf("before: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := tokens.Verify(raw); err == nil {
			t.Error("expiry has a leeway")
		}
	})
}

func TestAClockThatIsAMinuteLateIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := newAuthority(t)
		raw := mint(t, tokens, "web", "web-1", day)
		for _, tt := range []struct {
			late time.Duration
			ok   bool
		}{{59 * time.Second, true}, {61 * time.Second, false}} {
			tokens.now = func() time.Time { return time.Now().Add(-tt.late) }
			if _, err := tokens.Verify(raw); (err == nil) != tt.ok {
				t.Errorf("%s late: %v", tt.late, err)
			}
		}
	})
}

// Each token is good but for one thing.
func TestHostileTokens(t *testing.T) {
	tokens := newAuthority(t)
	foreign := newAuthority(t)
	publicDER, err := x509.MarshalPKIXPublicKey(&tokens.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})

	now := time.Now()
	good := func() jwt.MapClaims {
		return jwt.MapClaims{
			"iss": "datapunk", "aud": "xds", "sub": "spiffe://datapunk/web", "node": "web-1", "jti": "1",
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(day).Unix(),
		}
	}
	sign := func(method jwt.SigningMethod, kid any, key any, c jwt.Claims) string {
		token := jwt.NewWithClaims(method, c)
		if kid != nil {
			token.Header["kid"] = kid
		}
		raw, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	ours := func(c jwt.Claims) string { return sign(jwt.SigningMethodES256, tokens.keyID, tokens.key, c) }
	with := func(name string, value any) string {
		c := good()
		c[name] = value
		return ours(c)
	}
	without := func(name string) string {
		c := good()
		delete(c, name)
		return ours(c)
	}
	if _, err := tokens.Verify(ours(good())); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	// raw signs any bytes: what the library would never write.
	signed := func(header, payload string) string {
		enc := base64.RawURLEncoding.EncodeToString
		text := enc([]byte(header)) + "." + enc([]byte(payload))
		sig, err := jwt.SigningMethodES256.Sign(text, tokens.key)
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + enc(sig)
	}
	payload, err := json.Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	head := `{"alg":"ES256","kid":"` + tokens.keyID + `"`
	also := func(member string) string { return signed(head+","+member+"}", string(payload)) }
	claim := func(member string) string {
		return signed(head+"}", strings.TrimSuffix(string(payload), "}")+","+member+"}")
	}
	for name, fine := range map[string]string{
		"without typ": signed(head+"}", string(payload)), "typ JWT": also(`"typ":"JWT"`), "a claim of others": claim(`"scope":{"a":[1]}`),
	} {
		if _, err := tokens.Verify(fine); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw := ours(good())
	split := strings.Split(raw, ".")
	for name, hostile := range map[string]string{
		"empty":                           "",
		"not a token":                     "a.b.c",
		"alg none":                        sign(jwt.SigningMethodNone, tokens.keyID, jwt.UnsafeAllowNoneSignatureType, good()),
		"HS256 with the public key":       sign(jwt.SigningMethodHS256, tokens.keyID, publicPEM, good()),
		"HS256 with the public key, DER":  sign(jwt.SigningMethodHS256, tokens.keyID, publicDER, good()),
		"another key under our kid":       sign(jwt.SigningMethodES256, tokens.keyID, foreign.key, good()),
		"another kid":                     sign(jwt.SigningMethodES256, foreign.keyID, tokens.key, good()),
		"no kid":                          sign(jwt.SigningMethodES256, nil, tokens.key, good()),
		"a kid that is no string":         sign(jwt.SigningMethodES256, []string{tokens.keyID}, tokens.key, good()),
		"no signature":                    raw[:strings.LastIndexByte(raw, '.')+1],
		"blanks around it":                " " + raw + " ",
		"another mesh's key":              sign(jwt.SigningMethodES256, foreign.keyID, foreign.key, good()),
		"expired":                         with("exp", now.Add(-time.Second).Unix()),
		"no expiry":                       without("exp"),
		"expiry that is no number":        with("exp", "tomorrow"),
		"not yet valid":                   with("nbf", now.Add(time.Hour).Unix()),
		"no nbf":                          without("nbf"),
		"from the future":                 with("iat", now.Add(time.Hour).Unix()),
		"no iat":                          without("iat"),
		"lives two years":                 with("exp", now.Add(2*MaxTTL).Unix()),
		"another audience":                with("aud", "vault"),
		"no audience":                     without("aud"),
		"another issuer":                  with("iss", "elsewhere"),
		"no subject":                      without("sub"),
		"subject of another trust domain": with("sub", "spiffe://elsewhere/web"),
		"subject of two segments":         with("sub", "spiffe://datapunk/web/x"),
		"subject without a path":          with("sub", "spiffe://datapunk"),
		"the control plane itself":        with("sub", "spiffe://datapunk/control-plane"),
		"no node":                         without("node"),
		"a node that is no string":        with("node", 7),
		"too long":                        with("x", strings.Repeat("x", 5000)),
		"a critical header":               also(`"crit":["exp"],"exp":1`),
		"a critical header of nothing":    also(`"crit":[]`),
		"an unencoded payload":            also(`"crit":["b64"],"b64":false`),
		"b64 that is not critical":        also(`"b64":false`),
		"a header that nobody knows":      also(`"x":1`),
		"a key of its own":                also(`"jwk":{"kty":"EC"}`),
		"a place of its key":              also(`"jku":"https://127.0.0.1/"`),
		"compressed":                      also(`"zip":"DEF"`),
		"another type":                    also(`"typ":"at+jwt"`),
		"a type that is no string":        also(`"typ":["JWT"]`),
		"alg twice":                       also(`"alg":"ES256"`),
		"ALG":                             also(`"ALG":"none"`),
		"kid twice":                       also(`"kid":"x"`),
		"node twice":                      claim(`"node":"web-2"`),
		"NODE":                            claim(`"NODE":"web-2"`),
		"sub twice":                       claim(`"sub":"spiffe://datapunk/lake"`),
		"exp twice":                       claim(`"exp":` + strconv.FormatInt(now.Add(2*day).Unix(), 10)),
		"Exp":                             claim(`"Exp":` + strconv.FormatInt(now.Add(2*day).Unix(), 10)),
		"claims that are a list":          signed(head+"}", "["+string(payload)+"]"),
		"claims and more":                 signed(head+"}", string(payload)+"{}"),
		"no claims":                       split[0] + ".." + split[2],
		"five parts":                      raw + ".a.b",
		"a line break in its signature":   raw[:len(raw)-5] + "\n" + raw[len(raw)-5:],
		"exp beyond all time":             with("exp", 1e300),
		"iat before all time":             with("iat", -1e300),
		"nbf beyond all time":             with("nbf", 1e300),
	} {
		if c, err := tokens.Verify(hostile); err == nil {
			t.Errorf("%s: accepted as %+v", name, c)
		} else if raw := hostile; len(raw) > 60 && strings.Contains(err.Error(), raw[len(raw)-20:]) {
			t.Errorf("%s: the error quotes the token", name)
		}
	}
}

func TestATokenFileIsEnvoysSecret(t *testing.T) {
	tokens := newAuthority(t)
	path := filepath.Join(t.TempDir(), "xds-token.yaml")
	for range 2 { // the second replaces the first
		raw := mint(t, tokens, "web", "web-1", day)
		if err := WriteSecretFile(path, raw); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %04o", info.Mode().Perm())
		}
		got, err := ReadSecretFile(path)
		if err != nil || got != raw {
			t.Errorf("read back: %v", err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

func TestATokenFileMayBeWrittenByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token.yaml")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: xds_token\n  generic_secret: {secret: {inline_string: 'Bearer abc'}}\n")
	if got, err := ReadSecretFile(path); err != nil || got != "abc" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "\t", "resources: []", "resources: [{name: other, generic_secret: {secret: {inline_string: 'Bearer abc'}}}]", "resources: [{name: xds_token, generic_secret: {secret: {inline_string: abc}}}]"} {
		write(bad)
		if _, err := ReadSecretFile(path); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestATokenFileKeepsItsForm(t *testing.T) {
	tokens := newAuthority(t)
	path := filepath.Join(t.TempDir(), "token")
	first, second := mint(t, tokens, "web", "web-1", day), mint(t, tokens, "web", "web-1", day)
	for form, write := range map[string]func(path, token string) error{"bare": WriteFile, "of Envoy": WriteSecretFile} {
		if err := write(path, first); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		token, again, err := ReadFile(path)
		if err != nil || token != first {
			t.Fatalf("%s: %v", form, err)
		}
		if err := again(path, second); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil || strings.Replace(string(before), first, second, 1) != string(after) {
			t.Errorf("%s: it became another form: %v", form, err)
		}
	}
	for _, bad := range []string{"", "a.b", "a.b.c d", "{}"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if token, _, err := ReadFile(path); err == nil {
			t.Errorf("%q was read as %q", bad, token)
		}
	}
}

func FuzzVerify(f *testing.F) {
	tokens := newAuthority(f)
	raw, err := tokens.Mint("web", "web-1", day)
	if err != nil {
		f.Fatal(err)
	}
	minted, err := tokens.Verify(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		// Of one message an ECDSA signature has two spellings, so the token may
		// differ; what it proves may not.
		if c, err := tokens.Verify(s); err == nil && c != minted {
			t.Errorf("forged %+v: %q", c, s)
		}
	})
}
