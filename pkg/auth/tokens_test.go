package auth

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

const someHash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func TestNewToken_FitsItsFile(t *testing.T) {
	spec := TokenSpec{Name: "team-a/ci@example.org", Namespaces: []string{"team-a", "1", "true", "null"}, Services: []string{"agent", "class"},
		Access: Write, Expires: epoch}
	token, entry, err := NewToken(spec, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(entry, token) || len(token) != len(tokenPrefix)+43 {
		t.Errorf("token %q, entry %s", token, entry)
	}
	other, _, _ := NewToken(spec, rand.Reader)
	if token == other {
		t.Error("two tokens are one")
	}
	table, err := parseTokens([]byte("tokens:\n"+entry), "f")
	if err != nil {
		t.Fatalf("%v\n%s", err, entry)
	}
	for _, h := range table.byPrefix {
		g := h.grant
		if g.name != spec.Name || len(g.namespaces) != 4 || g.allNamespaces || g.access != Write || !g.expires.Equal(epoch) {
			t.Errorf("%+v", g)
		}
		for _, name := range spec.Namespaces {
			if !g.in(name) {
				t.Errorf("namespace %q is lost", name)
			}
		}
	}
	full := TokenSpec{Name: "all", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Admin}
	if _, entry, err = NewToken(full, rand.Reader); err != nil || CheckTokens([]byte("tokens:\n"+entry), "f") != nil {
		t.Errorf("%v\n%s", err, entry)
	}
}

func TestNewToken_Refuses(t *testing.T) {
	many := make([]string, maxNamespaces+1)
	for i := range many {
		many[i] = "n"
	}
	one := []string{"a"}
	agentOnly := []string{"agent"}
	for name, spec := range map[string]TokenSpec{
		"no name":         {Namespaces: one, Services: agentOnly, Access: Read},
		"a quote":         {Name: `a"b`, Namespaces: one, Services: agentOnly, Access: Read},
		"a line":          {Name: "a\nb", Namespaces: one, Services: agentOnly, Access: Read},
		"no namespaces":   {Name: "a", Services: agentOnly, Access: Read},
		"no services":     {Name: "a", Namespaces: one, Access: Read},
		"bad namespace":   {Name: "a", Namespaces: []string{"A"}, Services: agentOnly, Access: Read},
		"bad service":     {Name: "a", Namespaces: one, Services: []string{"agents"}, Access: Read},
		"no access":       {Name: "a", Namespaces: one, Services: agentOnly},
		"unknown access":  {Name: "a", Namespaces: one, Services: agentOnly, Access: Admin + 1},
		"many namespaces": {Name: "a", Namespaces: many, Services: agentOnly, Access: Read},
	} {
		token, _, err := NewToken(spec, rand.Reader)
		if token != "" {
			t.Errorf("%s: a token was made", name)
		}
		wantRefusal(t, name, "", err, agent.Invalid, "")
	}
	if _, _, err := NewToken(TokenSpec{Name: "a", Namespaces: one, Services: agentOnly, Access: Read}, bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a token of 31 bytes")
	}
}

func TestCheckTokens_NamesTheLine(t *testing.T) {
	entry := func(lines ...string) string { return "tokens:\n- " + strings.Join(lines, "\n  ") + "\n" }
	name, hash, spaces, services, access := "name: a", "sha256: "+someHash, "namespaces: [x]", `services: "*"`, "access: read"
	good := entry(name, hash, spaces, services, access)
	for _, text := range []string{
		good, "tokens: []\n", "# only\ntokens:\n  []\n", good + "- {name: b, sha256: \"" + strings.Repeat("0", 64) + "\", namespaces: \"*\", services: [agent, fiber], access: admin, expires: 2051-01-01T00:00:00Z}\n",
		entry(name, "sha256: "+strings.Repeat("12", 32), spaces, services, access),
	} {
		if err := CheckTokens([]byte(text), "f"); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	tests := []struct{ name, text, words string }{
		{"empty", "", "f: "},
		{"no tokens", "other: 1\n", `f:1: unknown field "other"; the fields are tokens`},
		{"a list", "- a\n", "expected `tokens: …`"},
		{"no list", "tokens: a\n", "f:1: `tokens:` needs a list"},
		{"null", "tokens:\n", "needs a list"},
		{"two documents", good + "---\n" + good, "holds 2"},
		{"token itself", entry(name, "token: secret", hash, spaces, services, access), `f:3: unknown field "token"`},
		{"no name", entry(hash, spaces, services, access), "f:2: "},
		{"no hash", entry(name, spaces, services, access), "sha256 must be 64 hex digits"},
		{"short hash", entry(name, hash[:70], spaces, services, access), "sha256 must be 64 hex digits"},
		{"no namespaces", entry(name, hash, services, access), `"namespaces" needs a list`},
		{"empty namespaces", entry(name, hash, "namespaces: []", services, access), `"namespaces" needs a list`},
		{"bad namespace", entry(name, hash, "namespaces: [X]", services, access), `namespace "X"`},
		{"nested namespaces", entry(name, hash, "namespaces: [[x]]", services, access), `"namespaces" needs a list`},
		{"bad service", entry(name, hash, spaces, "services: agents", access), `"agents" is no service; those are agent, fiber`},
		{"no access", entry(name, hash, spaces, services), "access must be read, write or admin"},
		{"bad access", entry(name, hash, spaces, services, "access: none"), "access must be read, write or admin"},
		{"bad end", entry(name, hash, spaces, services, access, "expires: tomorrow"), "expires must read like"},
		{"empty end", entry(name, hash, spaces, services, access, "expires:"), "expires must read like"},
		{"twice a field", entry(name, hash, hash, spaces, services, access), ""},
		{"twice a name", good + strings.TrimPrefix(good, "tokens:\n"), `two tokens are named "a"`},
		{"twice a hash", good + strings.Replace(strings.TrimPrefix(good, "tokens:\n"), "name: a", "name: b", 1), `"a" and "b" have the same hash`},
		{"anchor", entry(name, hash, "namespaces: &a [x]", services, access), `"namespaces" needs a list`},
		{"alias", "a: &x [x]\ntokens: *x\n", `unknown field "a"`},
		{"long line", "# " + strings.Repeat("x", maxLineBytes) + "\n" + good, "line 1 has more than"},
		{"deep", "tokens: " + strings.Repeat("[", 200), "opens a bracket inside"},
		{"deep, by lines", "tokens: " + strings.Repeat("[\n", 2000), "opens a bracket inside"},
		{"deep, by dashes", "tokens:\n " + strings.Repeat("- ", 200), "line 2 begins a list inside a list"},
		{"many lines", strings.Repeat("\n", maxLines+1), "more than 65536 lines"},
		{"null as name", entry("name:", hash, spaces, services, access), "cannot name a token"},
		{"large", "tokens:\n" + strings.Repeat("# "+strings.Repeat("x", 60)+"\n", MaxTokensFileBytes/60), "bytes; at most"},
		{"no YAML", "tokens: [", "this is not YAML"},
	}
	for _, test := range tests {
		wantRefusal(t, test.name, "", CheckTokens([]byte(test.text), "f"), agent.Invalid, test.words)
	}
	var many strings.Builder
	many.WriteString("tokens:\n")
	for i := range MaxTokens + 1 {
		fmt.Fprintf(&many, "- {name: a%d, sha256: \"%064x\", namespaces: a, services: agent, access: read}\n", i, uint64(i))
	}
	wantRefusal(t, "many", "", CheckTokens([]byte(many.String()), "f"), agent.Invalid, "4097 tokens; at most 4096")
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte("tokens:\n- name: a\n  sha256: " + someHash + "\n  namespaces: [x]\n  services: \"*\"\n  access: read\n"))
	f.Add([]byte("tokens:\n- {name: a, sha256: \"" + someHash + "\", namespaces: \"*\", services: [agent], access: admin, expires: 2051-01-01T00:00:00Z}"))
	f.Add([]byte("? x\n: y"))
	f.Add([]byte("tokens: &a [*a]"))
	f.Add([]byte("---\n...\n"))
	f.Add([]byte("<<: {a: 1}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := parseTokens(text, "f")
		if err != nil {
			if agent.KindOf(err) != agent.Invalid {
				t.Errorf("kind of %v", err)
			}
			return
		}
		for _, h := range table.byPrefix {
			if g := h.grant; g.access < Read || g.access > Admin || g.services == 0 || !g.allNamespaces && len(g.namespaces) == 0 {
				t.Errorf("%+v", g)
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	c, file := newClock(), newTokensFile(f)
	s := newSigner(f, "k", methods["EdDSA"])
	token := file.add(f, TokenSpec{Name: "a", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Read})
	signed := s.sign(f, claims(nil), nil)
	keysFile := newTokensFile(f)
	keysFile.save(f, string(jwks(f, s)))
	a := start(f, Config{TokensFile: file.path, Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{"agentd"}, KeysFile: keysFile.path}})
	f.Add(token)
	f.Add(signed)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, bearer string) {
		if _, err := check(a, bearer); err == nil && bearer != token && bearer != signed {
			t.Errorf("%q is accepted", bearer)
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(jwks(f, newSigner(f, "a", methods["RS256"]), newSigner(f, "b", methods["ES256"]), newSigner(f, "c", methods["EdDSA"])))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AA","e":"AQAB"},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parseKeys(text)
		if err == nil && (len(set.keys) == 0 || len(set.keys) > maxKeys) {
			t.Errorf("%d keys", len(set.keys))
		}
	})
}

func TestReadTokens_ListsWhatTheFileSays(t *testing.T) {
	text := "tokens:\n"
	for _, spec := range []TokenSpec{
		{Name: "b", Namespaces: []string{"y", "x"}, Services: []string{ServiceClass, ServiceAgent}, Access: Read, Expires: epoch},
		{Name: "a", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Admin},
	} {
		_, entry, err := NewToken(spec, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text += entry
	}
	got, err := ReadTokens([]byte(text), "f")
	want := []TokenInfo{
		{Name: "b", Namespaces: []string{"x", "y"}, Services: []string{ServiceAgent, ServiceClass}, Access: Read, Expires: epoch},
		{Name: "a", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Admin},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	if _, err := ReadTokens([]byte("tokens: 1"), "f"); agent.KindOf(err) != agent.Invalid {
		t.Errorf("%v", err)
	}
}
