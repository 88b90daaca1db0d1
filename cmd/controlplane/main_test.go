package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"controlplane": func() { os.Exit(exitCode(newRootCommand().ExecuteContext(context.Background()))) },
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
			"onelines": oneLine,
		},
	})
}

// exitCodeIs runs a command and compares its exit code: exitcode 2 controlplane serve.
func exitCodeIs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND ARG…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		e, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		exit = e
		code = exit.ExitCode()
	}
	if want := args[0]; fmt.Sprint(code) != want {
		ts.Fatalf("%v: exit code %d, want %s", args[1:], code, want)
	}
}

// oneLine asserts that stderr of the last command is exactly one line.
func oneLine(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stderr")
	lines := 0
	for i, c := range text {
		if c == '\n' && i != len(text)-1 {
			lines++
		}
	}
	if lines != 0 || text == "" {
		ts.Fatalf("want one line on stderr, got:\n%s", text)
	}
}
