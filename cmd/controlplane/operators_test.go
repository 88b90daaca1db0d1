package main

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"datapunk.dev/controlplane/sds"
)

// answerOf runs a command against the control plane, and returns what it prints and its
// exit code.
func (s *served) answerOf(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	root := newRootCommand()
	var out, messages bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&messages)
	root.SetArgs(args)
	err := root.ExecuteContext(s.t.Context())
	if err != nil {
		messages.WriteString(err.Error())
	}
	return out.String(), messages.String(), exitCode(err)
}

// asks runs a command against the control plane, as the user of its data directory.
func (s *served) asks(args ...string) string {
	s.t.Helper()
	out, messages, code := s.answerOf(append(args, "--admin-address", strings.TrimPrefix(s.url, "http://"), "--data-dir", filepath.Join(s.dir, "data"))...)
	if code != 0 {
		s.t.Fatalf("%v: exit code %d, %s", args, code, messages)
	}
	return out
}

// What other machines reach is served over TLS, to those who show a token: with the role
// read they read, with operate they act, and with neither nothing is said.
func TestTheAdminAddressOnANetwork(t *testing.T) {
	s := newServed(t, inFile)
	s.change = func(o *settings) {
		o.AdminAddress, o.AdminTLS, o.XDSNames = "0.0.0.0:0", true, []string{"127.0.0.1"}
	}
	s.start()
	address := "https://127.0.0.1:" + portOf(t, s.url)
	data := filepath.Join(s.dir, "data")
	mint := func(name, role string) string {
		file := filepath.Join(s.dir, name+".token")
		if _, messages, code := s.answerOf("admin-token", "--data-dir", data, "--name", name, "--role", role, "--out", file); code != 0 {
			t.Fatal(messages)
		}
		return file
	}
	bob, ada := mint("bob", "read"), mint("ada", "operate")
	ca := filepath.Join(data, "ca.pem")
	nobody := filepath.Join(s.dir, "nobody.token")
	if err := os.WriteFile(nobody, []byte("e30.e30.e30\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token string
		args  []string
		code  int
		says  string
	}{
		{bob, []string{"status"}, 0, ""},
		{ada, []string{"status"}, 0, ""},
		{nobody, []string{"status"}, 1, "the token is not valid"},
		{bob, []string{"removals", "accept", "0123456789ab"}, 1, "bob has the role read, and this takes operate"},
		{ada, []string{"removals", "accept", "0123456789ab"}, 1, "no removal of this id is held"},
		{"", []string{"status"}, 1, "over TLS each call takes a token"},
	} {
		args := append(c.args, "--admin-address", address, "--ca-file", ca, "--data-dir", t.TempDir())
		if c.token != "" {
			args = append(args, "--token-file", c.token)
		}
		if _, messages, code := s.answerOf(args...); code != c.code || !strings.Contains(messages, c.says) {
			t.Errorf("%v with %s: exit code %d, %s", c.args, c.token, code, messages)
		}
	}
	s.eventually("the act is recorded", func() bool { return strings.Contains(s.log.String(), "operator=ada") })
	if strings.Contains(s.log.String(), "operator=bob") {
		t.Error("what bob may not do is recorded as an act")
	}
}

// On a Unix socket of this user everybody reads, and the data directory's user acts.
func TestTheAdminAddressOnASocket(t *testing.T) {
	s := newServed(t, inFile)
	socket := filepath.Join(s.dir, "admin.sock")
	s.change = func(o *settings) { o.AdminAddress = "unix:" + socket }
	s.start()
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v: %v", info.Mode(), err)
	}
	if _, messages, code := s.answerOf("status", "--admin-address", "unix:"+socket); code != 0 {
		t.Error(messages)
	}
	if _, messages, _ := s.answerOf("removals", "accept", "0123456789ab", "--admin-address", "unix:"+socket, "--data-dir", t.TempDir()); !strings.Contains(messages, "takes a token") {
		t.Error(messages)
	}
	if _, messages, _ := s.answerOf("removals", "accept", "0123456789ab", "--admin-address", "unix:"+socket, "--data-dir", filepath.Join(s.dir, "data")); !strings.Contains(messages, "no removal of this id") {
		t.Error(messages)
	}
}

// A command shows no token where it needs none, and one of no more than the role that it
// needs where it does: whoever listens on that port in the control plane's place has it.
func TestACommandShowsNoMoreThanItNeeds(t *testing.T) {
	s := newServed(t, inFile)
	data := filepath.Join(s.dir, "data")
	_, tokens, err := sds.Open(data, "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tls  bool
		args []string
		role string
	}{
		{false, []string{"history", "list"}, ""},
		{false, []string{"plan", "-f", filepath.Join(s.dir, "mesh.yaml")}, ""},
		{false, []string{"removals", "accept", "0123456789ab"}, "operate"},
		{true, []string{"history", "list"}, "read"},
		{true, []string{"plan", "-f", filepath.Join(s.dir, "mesh.yaml")}, "read"},
		{true, []string{"removals", "accept", "0123456789ab"}, "operate"},
	} {
		var shown string
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown = r.Header.Get("Authorization")
			_, _ = w.Write([]byte("{}"))
		}))
		args := append(c.args, "--data-dir", data)
		if c.tls {
			server.StartTLS()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--admin-address", server.URL, "--ca-file", ca)
		} else {
			server.Start()
			args = append(args, "--admin-address", strings.TrimPrefix(server.URL, "http://"))
		}
		_, messages, code := s.answerOf(args...)
		server.Close()
		role := ""
		if raw, ok := strings.CutPrefix(shown, "Bearer "); ok {
			who, err := tokens.VerifyOperator(raw)
			if err != nil {
				t.Fatal(err)
			}
			role = who.Role
		}
		if code != 0 || role != c.role {
			t.Errorf("%v, TLS %t: exit code %d, %s; the role shown is %q, want %q", c.args, c.tls, code, messages, role, c.role)
		}
	}
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}
