package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A person secures a server and talks to it, with nothing but commands.
func TestSecurity_FromNothingToACall(t *testing.T) {
	d := newDesk(t)
	if code, out, stderr := d.run(t, "cluster", "init-tls", "--dir", "tls", "--cluster", "shop", "--node", "n1,n1.example,10.0.0.1", "--node", "n2"); code != exitOK ||
		!regexp.MustCompile(`(?m)^n1 +\S+/tls/n1 +\d{4}-\d\d-\d\d$`).MatchString(out) || !strings.Contains(out, "n2") || !strings.Contains(stderr, "ca.key") {
		t.Fatalf("exit %d, %q, %q", code, out, stderr)
	}
	code, out, stderr := d.run(t, "token", "new", "--name", "me", "--namespaces", "default", "--access", "admin", "--out", "tokens.yaml")
	token := strings.TrimSpace(out)
	if code != exitOK || !strings.HasPrefix(token, "agentd_") || stderr != "" {
		t.Fatalf("exit %d, %q, %q", code, out, stderr)
	}
	d.write(t, "token", token)
	path := func(name string) string { return filepath.Join(d.Dir, name) }
	_, addr := serve(t, "--tls-cert", path("tls/n1/node.crt"), "--tls-key", path("tls/n1/node.key"), "--auth-tokens", path("tokens.yaml"))

	d.env["AGENTD_ADDR"] = addr
	for _, step := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"ls"}, exitUnavailable, "does it speak TLS"},
		{[]string{"ls", "--tls"}, exitUnavailable, "name its CA with --tls-ca"},
		{[]string{"ls", "--tls-ca", "tls/n2/ca.crt"}, exitFailed, "a token is needed"},
		{[]string{"ls", "--tls-ca", "tls/ca.crt", "--token-file", "token"}, exitOK, ""},
		{[]string{"ls", "--tls-ca", "tls/ca.crt", "--token-file", "token", "-n", "other"}, exitFailed, `may not use the namespace "other"`},
		{[]string{"ls", "--tls-ca", "tls/ca.key"}, exitUsage, "ca.key"},
		{[]string{"ls", "--tls-cert", "tls/n1/node.crt"}, exitUsage, "--tls-key"},
	} {
		code, _, stderr := d.run(t, step.args...)
		if code != step.code || !strings.Contains(stderr, step.stderr) {
			t.Errorf("%v: exit %d, %q; want %d, %q", step.args, code, stderr, step.code, step.stderr)
		}
	}
	code, found := d.doctor(t, "--addr", addr, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--tls-ca", "tls/ca.crt", "--token-file", "token",
		"--auth-tokens", "tokens.yaml", "--tls-cert", "tls/n1/node.crt", "--tls-key", "tls/n1/node.key")
	for _, check := range []string{"server", "certificate", "tokens"} {
		if code != exitOK || found[check].Verdict != verdictOK {
			t.Errorf("doctor: exit %d, %s: %+v", code, check, found[check])
		}
	}
}

func TestTokenNew_AddsToTheFile(t *testing.T) {
	d := newDesk(t)
	add := func(name string, more ...string) (int, string) {
		code, _, stderr := d.run(t, append([]string{"token", "new", "--name", name, "--namespaces", "a,b", "--services", "agent", "--out", "tokens.yaml"}, more...)...)
		return code, stderr
	}
	for _, name := range []string{"one", "two", "three"} {
		if code, stderr := add(name, "--expires", "90d"); code != exitOK {
			t.Fatalf("%s: exit %d, %s", name, code, stderr)
		}
	}
	info, err := os.Stat(filepath.Join(d.Dir, "tokens.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	before, err := os.ReadFile(filepath.Join(d.Dir, "tokens.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if code, stderr := add("two"); code != exitFailed || !strings.Contains(stderr, `two tokens are named "two"`) {
		t.Errorf("a name that is taken: exit %d, %s", code, stderr)
	}
	if after, err := os.ReadFile(filepath.Join(d.Dir, "tokens.yaml")); err != nil || string(after) != string(before) {
		t.Errorf("a refused entry changed the file: %v", err)
	}
	code, out, _ := d.run(t, "token", "check", "tokens.yaml", "--json")
	var list []tokenLine
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitOK || len(list) != 3 {
		t.Fatalf("exit %d, %s, %v", code, out, err)
	}
	if l := list[2]; l.Name != "three" || strings.Join(l.Namespaces, " ") != "a b" || strings.Join(l.Services, " ") != "agent" || l.Access != "write" || l.Expired ||
		l.Expires == nil || time.Until(*l.Expires) < 89*24*time.Hour {
		t.Errorf("%+v", l)
	}
	if left, err := os.ReadDir(d.Dir); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	for name, text := range map[string]string{"a comment at the end": "tokens: [] # nobody\n", "one line": "tokens: [{name: x}]\n", "broken": "tokens"} {
		d.write(t, "tokens.yaml", text)
		if code, _ := add("new"); code == exitOK {
			if code, out, stderr := d.run(t, "token", "check", "tokens.yaml"); code != exitOK || !strings.Contains(out, "new") {
				t.Errorf("%s: the file that was made is %d %s %s", name, code, out, stderr)
			}
			continue
		}
		if after, err := os.ReadFile(filepath.Join(d.Dir, "tokens.yaml")); err != nil || string(after) != text {
			t.Errorf("%s: a refused entry changed the file: %s, %v", name, after, err)
		}
	}
}

func TestTokenNew_WithoutAFile(t *testing.T) {
	d := newDesk(t)
	code, out, entry := d.run(t, "token", "new", "--name", "ci", "--namespaces", "*", "--expires", "2100-01-01")
	if code != exitOK || strings.Count(out, "\n") != 1 || strings.Contains(entry, strings.TrimSpace(out)) {
		t.Errorf("exit %d, stdout %q, stderr %q; want the token, and an entry without it", code, out, entry)
	}
	d.write(t, "pasted.yaml", entry)
	if code, out, stderr := d.run(t, "token", "check", "pasted.yaml"); code != exitOK || !regexp.MustCompile(`ci +\* +\* +write +2100-01-01T00:00:00Z`).MatchString(out) {
		t.Errorf("exit %d, %q, %q", code, out, stderr)
	}
	for flag, want := range map[string]string{"--expires=yesterday": "is no time", "--expires=2001-01-01": "in the past", "--services=agents": "is no service",
		"--namespaces=A": "namespace", "--access=root": "--access must be one of", "--name=a b": "cannot name a token"} {
		args := []string{"token", "new", "--name", "ci", "--namespaces", "*"}
		if code, out, stderr := d.run(t, append(args, flag)...); code != exitUsage || out != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q, %q", flag, code, out, stderr)
		}
	}
}

func TestTokenCheck_SaysWhatIsWrong(t *testing.T) {
	d := newDesk(t)
	d.write(t, "bad.yaml", "tokens:\n  - name: x\n    sha: 1\n")
	if code, _, stderr := d.run(t, "token", "check", "bad.yaml"); code != exitFailed || !strings.Contains(stderr, "bad.yaml:3") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if code, _, stderr := d.run(t, "token", "check", "none.yaml"); code != exitFailed || !strings.Contains(stderr, "none.yaml") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestInitTLS_OverwritesNothing(t *testing.T) {
	d := newDesk(t)
	run := func(more ...string) (int, string) {
		code, _, stderr := d.run(t, append([]string{"cluster", "init-tls", "--dir", "tls", "--node", "n1"}, more...)...)
		return code, stderr
	}
	if code, stderr := run(); code != exitOK {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if code, stderr := run(); code != exitFailed || !strings.Contains(stderr, "exists already") {
		t.Errorf("again: exit %d, %s", code, stderr)
	}
	if code, stderr := run("--renew", "--validity", "240h"); code != exitOK {
		t.Errorf("renewed: exit %d, %s", code, stderr)
	}
	if code, stderr := run("--cluster", "other", "--renew"); code != exitUsage || !strings.Contains(stderr, "use another folder") {
		t.Errorf("another cluster: exit %d, %s", code, stderr)
	}
	if code, _, stderr := d.run(t, "cluster", "init-tls", "--dir", "tls", "--node", "../n1"); code != exitUsage || !strings.Contains(stderr, "cannot name a node") {
		t.Errorf("a path as a name: exit %d, %s", code, stderr)
	}
	_, found := d.doctor(t, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--tls-cert", "tls/n1/node.crt", "--tls-key", "tls/n1/node.key")
	if f := found["certificate"]; f.Verdict != verdictWarn || !strings.Contains(f.Todo, "ends soon") {
		t.Errorf("ten days left: %+v", f)
	}
	d.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	code, found := d.doctor(t, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--tls-cert", "tls/n1/node.crt", "--tls-key", "tls/n1/node.key")
	if f := found["certificate"]; code != exitFailed || f.Verdict != verdictFail {
		t.Errorf("expired: exit %d, %+v", code, f)
	}
}

func TestServe_RefusesSecurityThatCannotWork(t *testing.T) {
	for want, args := range map[string][]string{
		"--tls-key":        {"--tls-cert", "x"},
		"--jwt-audience":   {"--jwt-issuer", "https://issuer.example"},
		"--jwt-issuer":     {"--jwt-keys", "keys.json"},
		"namespaces=CLAIM": {"--jwt-claims", "tenants=x"},
	} {
		code, _, stderr := newDesk(t).run(t, append([]string{"serve", "--data", "d"}, args...)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d, %q; want %q", args, code, stderr, want)
		}
	}
}

func TestSettings_JWT(t *testing.T) {
	d := newDesk(t)
	g, s, err := d.parse(t, "serve", "--data", "d", "--jwt-issuer", "https://i.example", "--jwt-audience", "a,b", "--jwt-keys", "keys.json", "--jwt-claims", "namespaces=teams,name=email")
	if err != nil {
		t.Fatal(err)
	}
	sec, err := g.Serve.security(s)
	if err != nil || sec.JWT == nil {
		t.Fatalf("%+v, %v", sec, err)
	}
	if j := sec.JWT; strings.Join(j.Audiences, " ") != "a b" || j.KeysFile != filepath.Join(d.Dir, "keys.json") || j.KeysURL != "" || j.NamespacesClaim != "teams" || j.NameClaim != "email" || j.ServicesClaim != "" {
		t.Errorf("%+v", j)
	}
	g.Serve.JWTKeys = "https://i.example/keys"
	if sec, err = g.Serve.security(s); err != nil || sec.JWT.KeysURL != "https://i.example/keys" || sec.JWT.KeysFile != "" {
		t.Errorf("%+v, %v", sec.JWT, err)
	}
}
