// Command agentd is the server and its client in one binary.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"

	"agentd/internal/cli"
)

// version is set by the linker for releases: -X main.version=1.2.3.
var version string

func main() {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintf(os.Stderr, "agentd: the current folder cannot be used: %v\n", err)
		os.Exit(1)
	}
	// Two, so that the second signal is not lost while the first is taken.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(cli.Run(context.Background(), cli.World{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdinTTY: isTerminal(os.Stdin), StdoutTTY: isTerminal(os.Stdout), StderrTTY: isTerminal(os.Stderr),
		Env: os.LookupEnv, Dir: dir, Now: time.Now, Version: buildVersion(), Program: os.Args[0],
		Signals: signals, Exit: os.Exit,
	}, os.Args[1:]))
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// buildVersion is the release, or what the Go toolchain knows of the build.
func buildVersion() string {
	if version != "" {
		return version
	}
	name, dirty := "dev", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return name
	}
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			name = "dev-" + setting.Value[:min(len(setting.Value), 12)]
		case setting.Key == "vcs.modified" && setting.Value == "true":
			dirty = "+"
		}
	}
	return name + dirty
}
