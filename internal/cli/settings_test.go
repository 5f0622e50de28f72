package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"agentd/internal/governor"
)

// parse parses a command line as Run does and returns the grammar.
func (d *desk) parse(t *testing.T, args ...string) (*grammar, *session, error) {
	t.Helper()
	s := &session{World: d.World, from: map[string]origin{}}
	g := &grammar{}
	parser, err := kong.New(g, kong.WithBeforeResolve(s.resolveSettings))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(rearrange(parser.Model, args))
	return g, s, err
}

func TestSettings_Precedence(t *testing.T) {
	d := newDesk(t)
	d.write(t, "agentd.yaml", "addr: file:1\nnamespace: fromfile # a comment\ntimeout: 5s\nmax-live: 7\ninsecure: true\nmemory: 25%\n")
	d.env["AGENTD_CONFIG"] = "agentd.yaml"
	d.env["AGENTD_NAMESPACE"] = "fromenv"
	g, _, err := d.parse(t, "ls", "--addr", "typed:1")
	if err != nil {
		t.Fatal(err)
	}
	if c := g.Ls.connection; c.Addr != "typed:1" || c.Namespace != "fromenv" || c.Timeout != 5*time.Second || c.Token != "" {
		t.Errorf("got %+v; want the flag, the environment, the file and the default in this order", c)
	}
	g, _, err = d.parse(t, "serve", "--data", "d")
	if err != nil {
		t.Fatal(err)
	}
	if c := g.Serve.server; c.MaxLive != 7 || !c.Insecure || c.Memory.percent != 25 || c.Idle != 10*time.Second {
		t.Errorf("got %+v", c)
	}
}

func TestSettings_TypedDefaultWinsOverEnvironment(t *testing.T) {
	d := newDesk(t)
	d.env["AGENTD_ADDR"] = "other:1"
	g, _, err := d.parse(t, "ls", "--addr", "127.0.0.1:7600")
	if err != nil || g.Ls.Addr != "127.0.0.1:7600" {
		t.Errorf("addr %q, %v; want what was typed", g.Ls.Addr, err)
	}
}

func TestSettings_EmptyEnvironmentIsUnset(t *testing.T) {
	d := newDesk(t)
	d.env["AGENTD_TIMEOUT"] = ""
	if g, _, err := d.parse(t, "ls"); err != nil || g.Ls.Timeout != 30*time.Second {
		t.Errorf("timeout %v, %v", g.Ls.Timeout, err)
	}
}

func TestSettings_Errors(t *testing.T) {
	tests := []struct{ name, yaml, want string }{
		{"unknown key, near", "data: d\nmemroy: 1GiB\n", `agentd.yaml:2: unknown setting "memroy"; did you mean "memory"?`},
		{"underscore", "max_live: 3\n", `agentd.yaml:1: unknown setting "max_live"; did you mean "max-live"?`},
		{"unknown key, far", "replication: 3\n", `agentd.yaml:1: unknown setting "replication"; the settings are data, listen`},
		{"key of a flag that is no setting", "yes: true\n", `unknown setting "yes"`},
		{"twice", "addr: a:1\naddr: b:1\n", "addr"},
		{"nested", "server:\n  addr: a:1\n", `unknown setting "server"`},
		{"list", "addr: [a, b]\n", `agentd.yaml:1: "addr" needs one plain value`},
		{"no value", "addr:\n", `agentd.yaml:1: "addr" needs one plain value`},
		{"not a mapping", "- addr\n", "must be a list of `setting: value` lines"},
		{"not YAML", "addr: \"unclosed\nb: {", "agentd.yaml is not YAML"},
		{"two documents", "addr: a:1\n---\naddr: b:1\n", "more than one document"},
		{"bad value", "namespace: x\ntimeout: soon\n", "(from agentd.yaml:2)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			d.write(t, "agentd.yaml", test.yaml)
			code, _, stderr := d.run(t, "ls", "--config", "agentd.yaml", "--addr", "127.0.0.1:1")
			if code != exitUsage || !strings.Contains(stderr, test.want) {
				t.Errorf("exit %d, stderr %q; want exit 2 and %q", code, stderr, test.want)
			}
		})
	}
	t.Run("missing file", func(t *testing.T) {
		code, _, stderr := newDesk(t).run(t, "ls", "--config", "nowhere.yaml")
		if code != exitUsage || !strings.Contains(stderr, "nowhere.yaml") {
			t.Errorf("exit %d, stderr %q", code, stderr)
		}
	})
	t.Run("enum from the environment", func(t *testing.T) {
		d := newDesk(t)
		d.env["AGENTD_LOG_FORMAT"] = "xml"
		code, _, stderr := d.run(t, "serve", "--data", "d")
		if code != exitUsage || !strings.Contains(stderr, `--log-format: must be one of text, json but is "xml" (from AGENTD_LOG_FORMAT)`) {
			t.Errorf("exit %d, stderr %q", code, stderr)
		}
	})
}

func TestSettings_EmptyFileIsFine(t *testing.T) {
	d := newDesk(t)
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n"} {
		d.write(t, "agentd.yaml", text)
		if _, _, err := d.parse(t, "ls", "--config", "agentd.yaml"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestToken_Precedence(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"none", nil, nil, ""},
		{"file", nil, []string{"--token-file", "secret"}, "from-file"},
		{"typed token over environment's file", map[string]string{"AGENTD_TOKEN_FILE": "secret"}, []string{"--token", "typed"}, "typed"},
		{"typed file over environment's token", map[string]string{"AGENTD_TOKEN": "env"}, []string{"--token-file", "secret"}, "from-file"},
		{"environment's token", map[string]string{"AGENTD_TOKEN": "env"}, nil, "env"},
		{"environment's file", map[string]string{"AGENTD_TOKEN_FILE": "secret"}, nil, "from-file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			d.write(t, "secret", "from-file\n")
			for name, value := range test.env {
				d.env[name] = value
			}
			g, s, err := d.parse(t, append([]string{"ls"}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := g.Ls.token(s); err != nil || got != test.want {
				t.Errorf("token %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestRearrange(t *testing.T) {
	app, err := kong.New(&grammar{})
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"--addr x:1 call A/b m":       "call --addr x:1 A/b m",
		"--json -n test fiber ls A/b": "fiber ls --json -n test A/b",
		"--addr=x:1 ls":               "ls --addr=x:1",
		"call A/b m --key k":          "call A/b m --key k",
		"--help":                      "--help",
		"--wat call A/b":              "call --wat A/b",
		"-- call":                     "-- call",
		"--addr":                      "--addr",
		"":                            "",
	} {
		if got := strings.Join(rearrange(app.Model, strings.Fields(in)), " "); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	if got := rearrange(app.Model, []string{"call", "A/b", "m", "-5", "-1.5e3", "-x", "-"}); strings.Join(got, ",") != "call,A/b,m, -5, -1.5e3,-x,-" {
		t.Errorf("numbers become %q", got)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{"addr: a:1", "a: b: c", "? x\n: y", "addr: &a b\ntoken: *a", "{addr: 1}", "- 1", "addr: |\n  x\n", "<<: {a: 1}", "\x00", "---\n...\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseConfig(text, "f.yaml", []string{"addr", "token"})
		if (file == nil) == (err == nil) {
			t.Errorf("file %v, err %v", file, err)
		}
	})
}

func TestMemorySize(t *testing.T) {
	for text, want := range map[string]memorySize{
		"70%": {percent: 70}, "12.5%": {percent: 12.5}, "2GiB": {amount: 2 << 30}, "1.5g": {amount: 3 << 29}, "512 MiB": {amount: 512 << 20},
		"1000": {amount: 1000}, "2GB": {amount: 2e9}, "64k": {amount: 64 << 10}, "10b": {amount: 10},
	} {
		var m memorySize
		if err := m.UnmarshalText([]byte(text)); err != nil || m != want {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "%", "0", "-1", "NaN", "Inf", "1e30", "101%", "2XB", "GiB", "1 2"} {
		var m memorySize
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %+v", text, m)
		}
	}
	if n, all := (memorySize{percent: 50}).bytes(), governor.MachineMemory(); n < all/2-1 || n > all/2+1 {
		t.Errorf("half of %d bytes is %d", all, n)
	}
}
