package bundle

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The examples are what newcomers deploy first: each must bundle without a warning.
func TestExamples(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "examples")
	for file, want := range map[string]string{
		"counter/counter.ts":   `["Counter","SqlCounter"]`,
		"research/research.ts": `["Research"]`,
		"chat-room/room.ts":    `["Member","Room"]`,
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			out := build(t, Options{WorkDir: dir, Files: []string{file}})
			wantRun(t, out, `Object.keys(exports).sort()`, want)
			if len(out.Warnings) > 0 {
				t.Errorf("warnings: %v", out.Warnings)
			}
			if !slices.ContainsFunc(out.Inputs, func(in string) bool { return strings.HasSuffix(in, "tsconfig.json") }) {
				t.Errorf("inputs %v lack tsconfig.json", out.Inputs)
			}
		})
	}
}

// `make run` deploys them together.
func TestExamples_Together(t *testing.T) {
	t.Parallel()
	out := build(t, Options{WorkDir: filepath.Join("..", "..", "examples"), Files: []string{"research/research.ts", "counter/counter.ts", "chat-room/room.ts"}})
	wantRun(t, out, `Object.keys(exports).sort()`, `["Counter","Member","Research","Room","SqlCounter"]`)
	if len(out.Warnings) > 0 {
		t.Errorf("warnings: %v", out.Warnings)
	}
}

// The npm example needs `npm install`, which tests do not run.
func TestExamples_NpmWithoutInstall(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "examples", "npm")
	if nearest(dir, filepath.Join("node_modules", "ms", "package.json")) != "" {
		t.Skip("ms is installed here")
	}
	e := buildError(t, Options{WorkDir: dir, Files: []string{"reminder.ts"}})
	wantText(t, e.Error(), "reminder.ts:", "npm install ms` in", "examples/npm")
}
