package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// Limits of the file of tokens. The YAML parser's time grows with the square of a
// line's length, faster than the number of lines for some shapes, and its stack with
// the depth, so all are bounded before it begins.
const (
	MaxTokensFileBytes = 1 << 20
	MaxTokens          = 4096
	maxNamespaces      = 256 // of one token
	maxLines           = 1 << 16
	maxLineBytes       = 1 << 10
	maxDepth           = 4
)

// table finds grants by the hash of their token. It is immutable.
type table struct {
	// byPrefix is keyed by the first eight bytes of the hash: whoever learns from the
	// time that a prefix exists has learned nothing about a random token.
	byPrefix map[uint64]held
	absent   held // compared with when there is nothing to compare with
}

type held struct {
	sum   [sha256.Size]byte
	grant *grant
}

// find compares exactly once, in constant time, whether the token exists or not.
func (t *table) find(sum [sha256.Size]byte) *grant {
	h, ok := t.byPrefix[binary.BigEndian.Uint64(sum[:])]
	if !ok {
		h = t.absent
	}
	if subtle.ConstantTimeCompare(h.sum[:], sum[:]) == 1 {
		return h.grant
	}
	return nil
}

func openTable(cfg Config) (*reload.Value[*table], error) {
	return reload.Open(reload.Config[*table]{
		Paths: []string{cfg.TokensFile}, Limit: MaxTokensFileBytes, Now: cfg.Now, Report: cfg.Report,
		Parse: func(contents [][]byte) (*table, error) { return parseTokens(contents[0], cfg.TokensFile) },
	})
}

// CheckTokens reads the text of a tokens file and says what is wrong with it, with
// the line. name stands for the file in the message. The file reads:
//
//	tokens:
//	  - name: ci                       # for logs and messages
//	    sha256: 9f86d0…                # of the token's text, in hex
//	    namespaces: [team-a, team-b]   # or "*" for all
//	    services: [agent, class]       # or "*"; agent, fiber, workspace, code, workflow, class, cluster
//	    access: write                  # read, write or admin
//	    expires: 2027-01-01T00:00:00Z  # optional
//
// At most 4 096 tokens in 1 MiB. The error is of kind Invalid.
func CheckTokens(text []byte, name string) error {
	_, err := parseTokens(text, name)
	return err
}

// TokenInfo is what a file says about one token.
type TokenInfo struct {
	Name       string
	Namespaces []string // sorted; "*" for all
	Services   []string // "*" for all
	Access     Access
	Expires    time.Time // zero for never
}

// ReadTokens is CheckTokens for people: it lists the tokens in the order of the file.
func ReadTokens(text []byte, name string) ([]TokenInfo, error) {
	p := newTokensParser(name)
	if _, err := p.parse(text); err != nil {
		return nil, err
	}
	infos := make([]TokenInfo, len(p.order))
	for i, g := range p.order {
		infos[i] = TokenInfo{Name: g.name, Namespaces: slices.Sorted(maps.Keys(g.namespaces)), Services: g.services.names(), Access: g.access, Expires: g.expires}
		if g.allNamespaces {
			infos[i].Namespaces = []string{everything}
		}
	}
	return infos, nil
}

func parseTokens(text []byte, name string) (*table, error) { return newTokensParser(name).parse(text) }

func newTokensParser(name string) *tokensParser {
	return &tokensParser{file: name, table: &table{byPrefix: map[uint64]held{}}, names: map[string]bool{}}
}

func (p *tokensParser) parse(text []byte) (*table, error) {
	if err := p.checkShape(text); err != nil {
		return nil, err
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, p.bad(nil, "this is not YAML: %.500v", err)
	}
	if len(tree.Docs) != 1 {
		return nil, p.bad(nil, "the file must hold one document, `tokens:` and a list; it holds %d", len(tree.Docs))
	}
	fields, err := p.fields(tree.Docs[0].Body, "tokens")
	if err != nil {
		return nil, err
	}
	if fields["tokens"] == nil {
		return nil, p.bad(tree.Docs[0].Body, "`tokens:` is missing; a file that lets nobody in reads `tokens: []`")
	}
	list, ok := fields["tokens"].(*ast.SequenceNode)
	if !ok {
		return nil, p.bad(fields["tokens"], "`tokens:` needs a list")
	}
	if len(list.Values) > MaxTokens {
		return nil, p.bad(list, "%d tokens; at most %d are allowed", len(list.Values), MaxTokens)
	}
	for _, entry := range list.Values {
		if err := p.add(entry); err != nil {
			return nil, err
		}
	}
	return p.table, nil
}

// tokensParser turns the tree of a file into a table. It reads the few node types
// that the file needs; tags, anchors and aliases are errors.
type tokensParser struct {
	file  string
	table *table
	names map[string]bool
	order []*grant // as in the file
}

func (p *tokensParser) bad(at ast.Node, format string, args ...any) error {
	where := p.file
	if at != nil && at.GetToken() != nil && at.GetToken().Position != nil {
		where = fmt.Sprintf("%s:%d", p.file, at.GetToken().Position.Line)
	}
	return &agent.Error{Op: "read tokens", Kind: agent.Invalid, Msg: where + ": " + fmt.Sprintf(format, args...)}
}

// checkShape bounds what the YAML parser gets.
func (p *tokensParser) checkShape(text []byte) error {
	if len(text) > MaxTokensFileBytes {
		return p.bad(nil, "the file has %d bytes; at most %d are allowed", len(text), MaxTokensFileBytes)
	}
	depth, line := 0, 0
	for row := range bytes.Lines(text) {
		if line++; line > maxLines {
			return p.bad(nil, "more than %d lines", maxLines)
		}
		if len(row) > maxLineBytes {
			return p.bad(nil, "line %d has more than %d bytes: write one name a line", line, maxLineBytes)
		}
		if rest, ok := bytes.CutPrefix(bytes.TrimSpace(row), []byte("-")); ok && bytes.HasPrefix(bytes.TrimLeft(rest, " \t"), []byte("- ")) {
			return p.bad(nil, "line %d begins a list inside a list", line)
		}
		for _, c := range row {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth--
			}
			if depth > maxDepth {
				return p.bad(nil, "line %d opens a bracket inside %d others", line, maxDepth)
			}
		}
	}
	return nil
}

// fields reads a mapping whose keys must be among known.
func (p *tokensParser) fields(node ast.Node, known ...string) (map[string]ast.Node, error) {
	var entries []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		return nil, p.bad(node, "expected `%s: …`", known[0])
	}
	out := make(map[string]ast.Node, len(known))
	for _, entry := range entries {
		key, ok := scalar(entry.Key)
		if !ok || !slices.Contains(known, key) {
			return nil, p.bad(entry, "unknown field %.60q; the fields are %s", key, strings.Join(known, ", "))
		}
		if out[key] != nil {
			return nil, p.bad(entry, "%q is there twice", key)
		}
		out[key] = entry.Value
	}
	return out, nil
}

// add reads one token.
func (p *tokensParser) add(entry ast.Node) error {
	fields, err := p.fields(entry, "name", "sha256", "namespaces", "services", "access", "expires")
	if err != nil {
		return err
	}
	g := &grant{}
	g.name, _ = scalar(fields["name"])
	if err := validateTokenName(g.name); err != nil {
		return p.bad(entry, "%v", err)
	}
	if p.names[g.name] {
		return p.bad(entry, "two tokens are named %q", g.name)
	}
	p.names[g.name] = true
	if err := p.limits(g, entry, fields); err != nil {
		return err
	}
	return p.hold(g, fields["sha256"], entry)
}

func (p *tokensParser) limits(g *grant, entry ast.Node, fields map[string]ast.Node) error {
	for _, limit := range []struct {
		field string
		set   func([]string) error
	}{{"namespaces", g.limitNamespaces}, {"services", g.limitServices}} {
		names, ok := scalars(fields[limit.field])
		if !ok || len(names) == 0 || len(names) > maxNamespaces {
			return p.bad(entry, "token %q: %q needs a list of 1 to %d names, or \"*\"", g.name, limit.field, maxNamespaces)
		}
		if err := limit.set(names); err != nil {
			return p.bad(fields[limit.field], "token %q: %v", g.name, err)
		}
	}
	text, _ := scalar(fields["access"])
	var ok bool
	if g.access, ok = ParseAccess(text); !ok {
		return p.bad(entry, "token %q: access must be read, write or admin", g.name)
	}
	if fields["expires"] == nil {
		return nil
	}
	text, _ = scalar(fields["expires"])
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return p.bad(entry, "token %q: expires must read like 2027-01-01T00:00:00Z; leave it out for never", g.name)
	}
	g.expires = at
	return nil
}

// hold puts the grant where find looks.
func (p *tokensParser) hold(g *grant, node, entry ast.Node) error {
	text, _ := scalar(node)
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != sha256.Size {
		return p.bad(entry, "token %q: sha256 must be 64 hex digits, the hash of the token's text; `agentd token new` prints it", g.name)
	}
	h := held{sum: [sha256.Size]byte(sum), grant: g}
	prefix := binary.BigEndian.Uint64(sum)
	if other, taken := p.table.byPrefix[prefix]; taken {
		return p.bad(entry, "tokens %q and %q have the same hash", other.grant.name, g.name)
	}
	p.table.byPrefix[prefix] = h
	p.order = append(p.order, g)
	return nil
}

// scalar is the text of a plain value.
func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true // a hash or name may look like a number
	}
	return "", false
}

// scalars is a list of plain values; one alone is a list of one.
func scalars(node ast.Node) ([]string, bool) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		one, ok := scalar(node)
		return []string{one}, ok
	}
	out := make([]string, len(list.Values))
	for i, value := range list.Values {
		if out[i], ok = scalar(value); !ok {
			return nil, false
		}
	}
	return out, true
}
