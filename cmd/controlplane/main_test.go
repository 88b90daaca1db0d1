package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"datapunk.dev/controlplane/sds"
)

// programs is where tests build the program; it is gone after the last.
var programs string

// tests are all of this package's, with what they share.
type tests struct{ *testing.M }

func (m tests) Run() int {
	var err error
	if programs, err = os.MkdirTemp("", "controlplane-*"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(programs) }()
	return m.M.Run()
}

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"controlplane": main,
	})
}

// TestCommandLine runs each script of testdata/script: what a person types, and
// what the program answers.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// A port that is in use for as long as the script runs.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = l.Close() })
			env.Setenv("BUSY", l.Addr().String())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitCodeIs,
			"oneline":  oneLine,
			"datadir":  dataDir,
		},
	})
}

// exitCodeIs runs a command and compares its exit code: exitcode 2 controlplane serve.
func exitCodeIs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND ARG…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		code = exit.ExitCode()
	}
	if want := args[0]; fmt.Sprint(code) != want {
		ts.Fatalf("%v: exit code %d, want %s", args[1:], code, want)
	}
}

// oneLine asserts that the last command said one line on stderr.
func oneLine(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stderr")
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("want one line on stderr, got:\n%s", text)
	}
}

// dataDir makes the data directory of a mesh, as the first start does.
func dataDir(ts *testscript.TestScript, _ bool, args []string) {
	_, _, err := sds.Open(ts.MkAbs(args[0]), "datapunk")
	ts.Check(err)
}
