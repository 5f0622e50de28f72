// Package cli is the agentd command line: what can be typed, what is printed and
// which exit code it ends with.
//
// It holds no behaviour of its own. Client commands go through pkg/client, serve
// and dev assemble a server through pkg/node, deploy and dev bundle through
// internal/bundle. The world outside (streams, environment, clock, signals) comes
// in through World, so that tests run whole commands in process.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

// World is everything outside that a command may touch, apart from the network
// and the files that it is told to use.
type World struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// Which streams are terminals: it decides about layout, colour and questions.
	StdinTTY, StdoutTTY, StderrTTY bool

	Env     func(name string) (string, bool)
	Dir     string // the working directory, absolute: relative paths start here
	Now     func() time.Time
	Version string // of this build
	Program string // how the user called this command, for commands to try; default agentd

	// Signals delivers interrupts and termination requests. The first ends the
	// command in order, the second calls Exit at once. Nil if there are none.
	Signals <-chan os.Signal
	Exit    func(code int)
}

// errInterrupted is the cause with which the first signal ends a command's context.
var errInterrupted = errors.New("interrupted")

// session is one run of one command.
type session struct {
	World
	json bool              // results and errors as JSON
	from map[string]origin // where each setting that was not typed came from
}

// exitNow unwinds kong, which expects its exit function not to return.
type exitNow int

// Run parses args (without the program's name), runs the command and returns the
// exit code. It prints the failure, if there is one, and ends early when ctx does.
func Run(ctx context.Context, w World, args []string) (code int) {
	defer func() {
		switch early := recover().(type) {
		case nil:
		case exitNow:
			code = int(early)
		default:
			panic(early)
		}
	}()
	s := &session{World: w, json: slices.Contains(args, "--json"), from: map[string]origin{}}
	parser, err := s.parser()
	if err != nil {
		return s.fail(ctx, err)
	}
	if _, completing := w.Env("COMP_LINE"); completing {
		kongcompletion.Register(parser) // prints the candidates and exits
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(rearrange(parser.Model, args))
	if err != nil {
		return s.fail(ctx, explainParse(err))
	}
	s.json = flagIsSet(command, "json")

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.watchSignals(cancel)()
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(s); err != nil {
		return s.fail(ctx, err)
	}
	return exitOK
}

func (s *session) parser() (*kong.Kong, error) {
	return kong.New(&grammar{},
		kong.Name("agentd"),
		kong.Description(description),
		kong.ExplicitGroups(groups),
		kong.Writers(s.Stdout, s.Stderr),
		kong.Exit(func(code int) { panic(exitNow(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.ValueFormatter(describeSetting),
		kong.WithBeforeResolve(s.resolveSettings),
	)
}

// watchSignals ends the command on the first signal and the process on the second.
// The function that it returns stops watching and waits.
func (s *session) watchSignals(cancel context.CancelCauseFunc) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-quit:
				return
			case <-s.Signals:
				if n > 0 {
					s.Exit(exitInterrupted)
					return
				}
				cancel(errInterrupted)
			}
		}
	}()
	return func() { close(quit); <-done }
}

// flagIsSet says whether the chosen command has a boolean flag of this name and it
// is on, wherever that was said.
func flagIsSet(command *kong.Context, name string) bool {
	for _, flag := range command.Flags() {
		if flag.Name == name {
			on, _ := command.FlagValue(flag).(bool)
			return on
		}
	}
	return false
}
