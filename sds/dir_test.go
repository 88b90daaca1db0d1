package sds

import (
	"bytes"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/token"
)

const trustDomain = "datapunk"

// open opens a data directory of its own for the test.
func open(t testing.TB) (*CA, *token.Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	ca, tokens, err := Open(dir, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	return ca, tokens, dir
}

func TestFirstStartMakesTheDataDirectoryForItsOwnerAlone(t *testing.T) {
	_, _, dir := open(t)
	for name, want := range map[string]os.FileMode{
		".": 0o700, "ca.pem": 0o644, "ca-key.pem": 0o600, "token-key.pem": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", name, got, want)
		}
	}
	for _, name := range []string{"ca-key.pem", "token-key.pem"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(data); block == nil || block.Type != "PRIVATE KEY" {
			t.Errorf("%s is not PKCS #8 in PEM", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("the directory has %d files, want 3: %v", len(entries), entries)
	}
}

func TestALaterStartFindsTheSameKeys(t *testing.T) {
	ca, tokens, dir := open(t)
	again, tokensAgain, err := Open(dir, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	if again.roots.Load().first.id != ca.roots.Load().first.id {
		t.Error("the root changed")
	}
	raw, err := tokens.Mint("web", "web-1", token.MaxTTL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokensAgain.Verify(raw); err != nil {
		t.Errorf("a token from before: %v", err)
	}
	minter, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = minter.Mint("web", "web-1", token.MaxTTL); err != nil {
		t.Fatal(err)
	}
	if _, err := tokensAgain.Verify(raw); err != nil {
		t.Errorf("a token of the minting command: %v", err)
	}
}

func TestProcessesThatStartAtOnceAgreeOnOneRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	const n = 8
	var ids [n]string
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			// The lock is of the open file, so goroutines contend as processes do.
			ca, _, err := Open(dir, trustDomain)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = ca.roots.Load().first.id
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("roots differ: %v", ids)
		}
	}
}

func TestDataDirectoriesThatAreRefused(t *testing.T) {
	chmod := func(name string, mode os.FileMode) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name        string
		spoil       func(t *testing.T, dir string)
		trustDomain string
		want        string
	}{
		{name: "CA key readable by the group", spoil: chmod("ca-key.pem", 0o640), want: "ca-key.pem can be read by others (mode 0640)"},
		{name: "token key readable by others", spoil: chmod("token-key.pem", 0o604), want: "token-key.pem can be read by others (mode 0604)"},
		{name: "directory writable by the group", spoil: chmod(".", 0o770), want: "can be written by others (mode 0770)"},
		{name: "another trust domain", trustDomain: "elsewhere", want: `is the root of trust domain "datapunk", the mesh's is "elsewhere"`},
		{name: "certificate without its key", spoil: remove("ca-key.pem"), want: "ca.pem is there without "},
		{name: "key without its certificate", spoil: remove("ca.pem"), want: "ca-key.pem is there without "},
		{name: "key of another root", want: "ca-key.pem is not the key of", spoil: func(t *testing.T, dir string) {
			_, _, other := open(t)
			data, err := os.ReadFile(filepath.Join(other, "ca-key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no PEM", want: "ca-key.pem: want one PEM block", spoil: func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "an SVID for a root", want: "ca.pem: not the certificate of an authority", spoil: func(t *testing.T, dir string) {
			ca, err := (&directory{path: dir, now: wallClock()}).loadCA(t.Context(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			id, _ := identity.ServiceID(ca.td, "web")
			s, err := ca.issue(wallClock(), id, token.MaxTTL, serverNames{})
			if err != nil {
				t.Fatal(err)
			}
			if err := writePEM(filepath.Join(dir, caFile), pemCertificate, s.cert, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := writePEM(filepath.Join(dir, caKeyFile), pemPrivateKey, s.key, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	}
	if os.Geteuid() == 0 { // only root can give a file away
		tests = append(tests, struct {
			name        string
			spoil       func(t *testing.T, dir string)
			trustDomain string
			want        string
		}{name: "somebody else's key", want: "belongs to user 4321", spoil: func(t *testing.T, dir string) {
			if err := os.Chown(filepath.Join(dir, "ca-key.pem"), 4321, -1); err != nil {
				t.Fatal(err)
			}
		}})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, dir := open(t)
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			td := trustDomain
			if tt.trustDomain != "" {
				td = tt.trustDomain
			}
			_, _, err := Open(dir, td)
			if err == nil {
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error is not one line: %q", err)
			}
		})
	}
}

func TestRemovingTheTokenKeyRevokesEveryToken(t *testing.T) {
	_, tokens, dir := open(t)
	raw, err := tokens.Mint("web", "web-1", token.MaxTTL)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "token-key.pem")); err != nil {
		t.Fatal(err)
	}
	_, tokens, err = Open(dir, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Verify(raw); err == nil {
		t.Error("the old token still opens the port")
	}
}

func TestTrustDomainsThatAreRefused(t *testing.T) {
	for _, td := range []string{"", "Data", "spiffe://datapunk", "data/punk", "data punk", strings.Repeat("d", 256)} {
		if _, _, err := Open(filepath.Join(t.TempDir(), "data"), td); err == nil {
			t.Errorf("trust domain %q was accepted", td)
		}
	}
}

func TestMintingBeforeTheFirstStartSaysWhatToDo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := OpenTokens(dir)
	if err == nil || !strings.Contains(err.Error(), "the control plane makes it on its first start") {
		t.Errorf("error: %v", err)
	}
}

// A directory that was lost must not become a new authority in silence, which would
// lock every proxy out.
func TestAnExpectedRootIsThereOrNothingStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	ca, _, err := OpenContext(t.Context(), log, dir, trustDomain, Files{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.HashRoot(ca.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "a new authority was made") || !strings.Contains(said.String(), root.String()) {
		t.Errorf("the log says %s", &said)
	}
	said.Reset()
	if _, _, err := OpenContext(t.Context(), log, dir, trustDomain, Files{}, &root); err != nil || said.Len() > 0 {
		t.Errorf("the root that is expected: %v, %s", err, &said)
	}
	if err := os.Remove(filepath.Join(dir, tokenKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenContext(t.Context(), log, dir, trustDomain, Files{}, &root); err == nil || !strings.Contains(err.Error(), "has no token-key.pem") {
		t.Errorf("without its token key: %v", err)
	}
	if _, _, err := OpenContext(t.Context(), log, dir, trustDomain, Files{}, nil); err != nil || !strings.Contains(said.String(), "every token of before is refused") {
		t.Errorf("%v, the log says %s", err, &said)
	}
	lost := filepath.Join(t.TempDir(), "data")
	if _, _, err := OpenContext(t.Context(), log, lost, trustDomain, Files{}, &root); err == nil || !strings.Contains(err.Error(), "from its backup") {
		t.Errorf("a directory that was lost: %v", err)
	}
	if _, err := os.Stat(filepath.Join(lost, caFile)); err == nil {
		t.Error("and a root is in it")
	}
	if _, _, err := Open(lost, trustDomain); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenContext(t.Context(), log, lost, trustDomain, Files{}, &root); err == nil || !strings.Contains(err.Error(), "is expected") {
		t.Errorf("another root: %v", err)
	}
}
