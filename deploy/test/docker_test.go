package deploytest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// root is the root of the repository, from which the image is built.
var root = filepath.Join(deploy, "..")

func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	tree, err := parser.Parse(bytes.NewReader(read(t, "docker", "Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range tree.Warnings {
		t.Errorf("Dockerfile: %s", w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, description, _, msg string, _ []parser.Range) {
		t.Errorf("Dockerfile: %s: %s (%s)", rule, msg, description)
	}})
	all, _, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// find is the one instruction of type T of a stage.
func find[T any](t *testing.T, s instructions.Stage) T {
	t.Helper()
	var found []T
	for _, c := range s.Commands {
		if one, ok := c.(T); ok {
			found = append(found, one)
		}
	}
	if len(found) != 1 {
		t.Fatalf("stage %s has %d of %T, not one", s.Name, len(found), *new(T))
	}
	return found[0]
}

func TestImage_RunsAsItMust(t *testing.T) {
	all := stages(t)
	run := all[len(all)-1]
	if run.Name != "run" {
		t.Fatalf("a build makes stage %q unless told otherwise", run.Name)
	}
	if user := find[*instructions.UserCommand](t, run).User; user != "65532:65532" {
		t.Errorf("runs as %q", user)
	}
	if signal := find[*instructions.StopSignalCommand](t, run).Signal; signal != "SIGTERM" {
		t.Errorf("stops by %q", signal)
	}
	if volume := find[*instructions.VolumeCommand](t, run).Volumes; !slices.Equal(volume, []string{"/data"}) {
		t.Errorf("volumes are %v", volume)
	}
	if test := find[*instructions.HealthCheckCommand](t, run).Health.Test; !slices.Equal(test, []string{"CMD", "/usr/bin/agentd", "ping"}) {
		t.Errorf("health is %v", test)
	}
	if entry := find[*instructions.EntrypointCommand](t, run); entry.PrependShell {
		t.Error("the entry point needs a shell, which the image has not")
	}
	if ports := find[*instructions.ExposeCommand](t, run).Ports; !slices.Equal(ports, []string{"7600", "7680", "7690"}) {
		t.Errorf("ports are %v", ports)
	}
}

// TestImage_HasTheBuildFlagsOfMake: other tags would leave parts of SQLite out.
func TestImage_HasTheBuildFlagsOfMake(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	docker := string(read(t, "docker", "Dockerfile"))
	for _, flag := range []string{"-tags=sqlite_fts5,sqlite_math_functions", "-X main.version="} {
		if !bytes.Contains(makefile, []byte(flag)) || !strings.Contains(docker, flag) {
			t.Errorf("%s is not in both Makefile and Dockerfile", flag)
		}
	}
}

// TestImage_GetsWhatItIsBuiltOf: the ignore file lets through all that is copied and
// compiled, and no more.
func TestImage_GetsWhatItIsBuiltOf(t *testing.T) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(read(t, "docker", "Dockerfile.dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	needed := compiled(t)
	for _, stage := range stages(t) {
		for _, c := range stage.Commands {
			if cp, ok := c.(*instructions.CopyCommand); ok && cp.From == "" {
				needed = append(needed, cp.SourcePaths...)
			}
		}
	}
	for _, path := range needed {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Errorf("%v", err)
		}
		if out, err := ignored.MatchesOrParentMatches(path); err != nil || out {
			t.Errorf("%s is needed and ignored (%v)", path, err)
		}
	}
	for _, path := range []string{".git/config", "deploy/kubernetes/base/namespace.yaml", "bin/agentd", "pkg/node/world_test.go", ".env", "tls/ca.key"} {
		if out, err := ignored.MatchesOrParentMatches(path); err != nil || !out {
			t.Errorf("%s gets into the build (%v)", path, err)
		}
	}
}

// compiled are the files of the repository that the binary is made of.
func compiled(t *testing.T) []string {
	t.Helper()
	list := exec.Command("go", "list", "-deps", "-tags=sqlite_fts5,sqlite_math_functions",
		"-f", `{{if and .Module (eq .Module.Path "agentd")}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .CgoFiles}}{{$d}}/{{.}}
{{end}}{{range .CFiles}}{{$d}}/{{.}}
{{end}}{{range .HFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}`, "./cmd/agentd")
	list.Dir = root
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	base, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, file := range strings.Fields(string(out)) {
		relative, err := filepath.Rel(base, file)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.ToSlash(relative))
	}
	if len(files) < 50 {
		t.Fatalf("only %d files are compiled", len(files))
	}
	return files
}
