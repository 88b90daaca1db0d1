package join

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Nobody joins by a token that was not made, whatever is shown, and whatever lies in
// the place of the file that knows of it.
func FuzzJoinToken(f *testing.F) {
	dir := f.TempDir()
	tokens := NewTokens(dir)
	raw, kept, err := tokens.Create("web", MaxUses, time.Hour, day)
	if err != nil {
		f.Fatal(err)
	}
	path := tokens.path(kept.ID)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	id, secret := strings.Split(raw, ".")[1], strings.Split(raw, ".")[2]
	f.Add("join.ID.SECRET", "web", "web-1", "a", []byte(nil))
	f.Add("join.ID.", "web", "web-1", "a", []byte(nil))
	f.Add("join.../../x.SECRET", "web", "web-1", "a", []byte(nil))
	f.Add("join.ID.SECRET", "web", "web-1", "a", []byte(`{"id":"ID","uses":1}`))
	f.Add("join.ID.", "web", "web-1", "a", []byte(`{"id":"ID","hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","uses":-1}`))
	f.Add("join.ID.SECRET", "web", "web-1", "a", []byte(`null`))
	f.Fuzz(func(t *testing.T, shown, service, node, attempt string, file []byte) {
		shown = strings.NewReplacer("ID", id, "SECRET", secret).Replace(shown)
		was := Token{}
		if file == nil {
			file = good
		}
		file = []byte(strings.ReplaceAll(string(file), "ID", id))
		known := json.Unmarshal(file, &was) == nil
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := tokens.Use(shown, service, node, attempt)
		if err != nil {
			return
		}
		parts := strings.Split(shown, ".")
		if !known || len(parts) != 3 || digest(parts[2]) != was.Hash || was.Service != "" && was.Service != service || k.Left() < 0 {
			t.Errorf("%q of %q joined by %q, of which is known %s", node, service, shown, file)
		}
	})
}

// Nobody joins by an identity that Nomad did not sign.
func FuzzWorkloadIdentity(f *testing.F) {
	keys, jwks := newNomadKeys(f)
	path := filepath.Join(f.TempDir(), "jwks.json")
	if err := os.WriteFile(path, jwks, 0o600); err != nil {
		f.Fatal(err)
	}
	n, err := NewNomad(options(path))
	if err != nil {
		f.Fatal(err)
	}
	for _, raw := range []string{
		identityOf(f, jwt.SigningMethodES256, "e", keys.ec, nil), identityOf(f, jwt.SigningMethodNone, "e", jwt.UnsafeAllowNoneSignatureType, nil), "..", "e30.e30.",
	} {
		f.Add(raw, "lake", "")
	}
	foreign, _ := newNomadKeys(f)
	f.Add(identityOf(f, jwt.SigningMethodES256, "e", foreign.ec, nil), "", "")
	f.Fuzz(func(t *testing.T, raw, service, node string) {
		p, err := n.Prove(t.Context(), raw, Request{Service: service, Node: node})
		// What is signed is always of lake: nobody here has the key for anything else.
		if err == nil && (p.Service != "lake" || !strings.HasPrefix(p.Node, "lake-") || service != "" && service != "lake") {
			t.Errorf("%+v by %q", p, raw)
		}
		if err != nil && errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}
