package cli

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the help texts into docs/cli.md")

// helpMark is a place for the help of a command, with the text that is there now.
var helpMark = regexp.MustCompile("(?m)^<!-- help ?([a-z -]*) -->\n(?:```text\n(?s:.*?)\n```\n)?")

func TestDocs_HelpIsTrue(t *testing.T) {
	t.Setenv("COLUMNS", "100")
	file := filepath.Join("..", "..", "docs", "cli.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t)
	told := map[string]bool{}
	want := helpMark.ReplaceAllStringFunc(string(text), func(match string) string {
		command := strings.TrimSpace(helpMark.FindStringSubmatch(match)[1])
		told[command] = true
		code, help, stderr := d.run(t, append(strings.Fields(command), "--help")...)
		if code != exitOK {
			t.Fatalf("%q --help: exit %d, %s", command, code, stderr)
		}
		mark, _, _ := strings.Cut(match, "\n")
		return mark + "\n```text\n" + strings.TrimSpace(help) + "\n```\n"
	})
	app, err := kong.New(&grammar{})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range app.Model.Leaves(true) {
		path, _, _ := strings.Cut(leaf.Path(), " <")
		if !told[path] {
			t.Errorf("docs/cli.md does not show `agentd %s --help`", path)
		}
	}
	if want == string(text) {
		return
	}
	if !*update {
		t.Error("docs/cli.md does not show the help as it is; run: go test ./internal/cli -run TestDocs -update")
		return
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDocs_EverySettingIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	app, err := kong.New(&grammar{})
	if err != nil {
		t.Fatal(err)
	}
	names := settingNames(app.Model.Node)
	for _, name := range names {
		if !strings.Contains(string(text), "\n| `"+name+"` | `"+envName(name)+"` | ") {
			t.Errorf("docs/configuration.md has no line for the setting %s (%s)", name, envName(name))
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+row[1]+" ") {
			t.Errorf("docs/configuration.md explains %s, which does not exist", row[1])
		}
	}
}
