package raftgroup

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// logger gives raft's own messages to slog. What raft calls information is every
// step of an election or a snapshot: it is for debugging here, since package
// replication reports leadership once per shard.
type logger struct{ log *slog.Logger }

var _ hclog.Logger = logger{}

func (l logger) level(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

func (l logger) enabled(level hclog.Level) bool {
	return l.log.Enabled(context.Background(), l.level(level))
}

func (l logger) Log(level hclog.Level, msg string, args ...any) {
	if !l.enabled(level) {
		return
	}
	for i, arg := range args {
		if f, ok := arg.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	l.log.Log(context.Background(), l.level(level), "raft: "+msg, args...)
}

func (l logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l logger) IsError() bool { return l.enabled(hclog.Error) }

func (l logger) With(args ...any) hclog.Logger  { return logger{l.log.With(args...)} }
func (l logger) Named(string) hclog.Logger      { return l }
func (l logger) ResetNamed(string) hclog.Logger { return l }
func (l logger) Name() string                   { return "" }
func (l logger) ImpliedArgs() []any             { return nil }
func (l logger) SetLevel(hclog.Level)           {}
func (l logger) GetLevel() hclog.Level          { return hclog.NoLevel }

func (l logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return slog.NewLogLogger(l.log.Handler(), slog.LevelDebug).Writer()
}

func (l logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.log.Handler(), slog.LevelDebug)
}
