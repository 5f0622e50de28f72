package jsagent

import (
	"context"
	"log/slog"
	"strings"

	"agentd/pkg/sandbox"
)

var consoleLevels = map[sandbox.Level]slog.Level{
	sandbox.LevelDebug: slog.LevelDebug, sandbox.LevelLog: slog.LevelInfo, sandbox.LevelInfo: slog.LevelInfo,
	sandbox.LevelWarn: slog.LevelWarn, sandbox.LevelError: slog.LevelError,
}

// console writes a line of the agent's code to the agent's log.
func (in *instance) console(level sandbox.Level, message string) {
	in.loop.Log().Log(context.Background(), consoleLevels[level], message, "source", "console", "class", in.class)
}

// unhandled logs an error that no code of the agent handled; it is not fatal.
func (in *instance) unhandled(err error) {
	e := in.iso.Error(err)
	in.loop.Log().Error("unhandled error in agent", "error", e.Error(), "stack", e.Stack, "class", in.class)
}

// event writes one of the SDK's observability events as a log line.
func (in *instance) event(kind string, attrs ...any) {
	level := slog.LevelDebug
	if strings.HasSuffix(kind, ":failed") || strings.HasSuffix(kind, ":error") || strings.HasSuffix(kind, ":skipped") {
		level = slog.LevelWarn
	}
	if log := in.loop.Log(); log.Enabled(context.Background(), level) {
		log.Log(context.Background(), level, kind, append(attrs, "class", in.class)...)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
