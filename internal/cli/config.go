package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxConfigBytes bounds the configuration file; a page of settings is 1 KB.
const maxConfigBytes = 1 << 20

// configFile is a flat YAML mapping from settings to scalars.
type configFile struct {
	name   string // as the user wrote it
	values map[string]configValue
}

type configValue struct {
	text string // the scalar, unquoted
	line int
}

// readConfig reads the file at path. A key that no command knows is an error that
// names its line, because a misspelled limit must not be ignored.
func readConfig(path, name string, app *kong.Application) (*configFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("configuration file %s has %d bytes; at most %d are allowed", name, info.Size(), maxConfigBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return parseConfig(text, name, settingNames(app.Node))
}

func parseConfig(text []byte, name string, known []string) (*configFile, error) {
	file := &configFile{name: name, values: map[string]configValue{}}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("%s is not YAML: %w", name, err)
	}
	for i, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			return nil, fmt.Errorf("%s holds more than one document; write one", name)
		}
		var entries []*ast.MappingValueNode
		switch body := doc.Body.(type) {
		case *ast.MappingNode:
			entries = body.Values
		case *ast.MappingValueNode:
			entries = []*ast.MappingValueNode{body}
		case *ast.NullNode, *ast.CommentGroupNode:
			continue
		default:
			return nil, fmt.Errorf("%s must be a list of `setting: value` lines", name)
		}
		for _, entry := range entries {
			if err := file.add(entry, known); err != nil {
				return nil, err
			}
		}
	}
	return file, nil
}

func (f *configFile) add(entry *ast.MappingValueNode, known []string) error {
	line := entry.Key.GetToken().Position.Line
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", f.name, line, fmt.Sprintf(format, args...))
	}
	key := entry.Key.GetToken().Value
	if !slices.Contains(known, key) {
		if near := nearest(key, known); near != "" {
			return bad("unknown setting %q; did you mean %q?", key, near)
		}
		return bad("unknown setting %q; the settings are %s", key, strings.Join(known, ", "))
	}
	if before, ok := f.values[key]; ok {
		return bad("%q is set twice, first in line %d", key, before.line)
	}
	text, ok := scalar(entry.Value)
	if !ok {
		return bad("%q needs one plain value, as in `%s: VALUE`", key, key)
	}
	f.values[key] = configValue{text: text, line: line}
	return nil
}

// scalar is the text of a string, number or boolean.
func scalar(node ast.Node) (string, bool) {
	switch v := node.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(v.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return v.GetToken().Value, true
	}
	return "", false
}

func (f *configFile) lookup(flag string) (value, where string, ok bool) {
	v, ok := f.values[flag]
	return v.text, fmt.Sprintf("%s:%d", f.name, v.line), ok
}

// settingNames are the settings of all commands, in order of appearance: one file
// serves the server and the client commands.
func settingNames(node *kong.Node) []string {
	var names []string
	for _, flag := range node.Flags {
		if flag.Tag.Has(settingTag) && flag.Name != "config" {
			names = append(names, flag.Name)
		}
	}
	for _, child := range node.Children {
		for _, name := range settingNames(child) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// nearest is the known name that a typing mistake most likely meant, or "".
func nearest(name string, known []string) string {
	best, bestDistance := "", 3
	for _, candidate := range known {
		if d := editDistance(strings.ReplaceAll(name, "_", "-"), candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// editDistance counts the bytes to insert, drop or replace to get from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
