package sandbox

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/file"
	"github.com/dop251/goja/parser"
	"github.com/go-sourcemap/sourcemap"
)

// Program is code compiled once. Any number of isolates may run it at the same
// time.
type Program struct {
	code       *goja.Program
	regex      bool // may hold a regular expression literal
	generators bool // may hold a generator function
}

// SourceError says where source code does not compile, in the author's file.
type SourceError struct {
	File       string
	Line       int // from 1
	Column     int // from 1
	Text       string
	SourceLine string // empty when the source map has no contents
}

func (e *SourceError) Error() string {
	at := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
	if e.SourceLine == "" {
		return at
	}
	return at + "\n    " + e.SourceLine
}

// Compile parses a script. sourceMap is JSON (version 3) or empty. The error is a
// *SourceError. Any goroutine.
func Compile(name string, source, sourceMap []byte) (*Program, error) {
	// Literals are compiled here, with the time limit that holds now.
	if err := installTemplates(); err != nil {
		return nil, err
	}
	src := string(source)
	if line, ok := nestingOf(src); !ok {
		return nil, &SourceError{File: name, Line: line, Column: 1, Text: "the program is nested too deeply", SourceLine: lineOf(src, line)}
	}
	var mapping *sourcemap.Consumer
	if len(sourceMap) > 0 {
		var err error
		if mapping, err = sourcemap.Parse("", sourceMap); err != nil {
			return nil, &SourceError{File: name, Line: 1, Column: 1, Text: "the source map is not valid: " + err.Error()}
		}
	}
	tree, err := parser.ParseFile(nil, name, src, 0, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, parseError(name, src, mapping, err)
	}
	if mapping != nil {
		tree.File.SetSourceMap(mapping)
	}
	code, err := goja.CompileAST(tree, false)
	if err != nil {
		return nil, compileError(name, src, mapping, err)
	}
	return &Program{code: code, regex: strings.Contains(src, "/") && holdsRegExp(tree), generators: strings.Contains(src, "yield")}, nil
}

// holdsRegExp says whether a regular expression literal is anywhere in the program.
// The parser has no walker of its own; this one goes by the types of the nodes, so a
// new kind of node cannot hide one, and without recursion, so depth does not matter.
func holdsRegExp(tree *ast.Program) bool {
	open := []reflect.Value{reflect.ValueOf(tree.Body)}
	for len(open) > 0 {
		v := open[len(open)-1]
		open = open[:len(open)-1]
		switch v.Kind() {
		case reflect.Interface, reflect.Pointer:
			if v.IsNil() || v.Type() == fileType {
				continue
			}
			if v.Type() == regExpType {
				return true
			}
			open = append(open, v.Elem())
		case reflect.Slice:
			for k := range v.Len() {
				open = append(open, v.Index(k))
			}
		case reflect.Struct:
			for k := range v.NumField() {
				switch f := v.Field(k); f.Kind() {
				case reflect.Interface, reflect.Pointer, reflect.Slice, reflect.Struct:
					open = append(open, f)
				}
			}
		}
	}
	return false
}

var (
	regExpType = reflect.TypeFor[*ast.RegExpLiteral]()
	fileType   = reflect.TypeFor[*file.File]() // the source, beside the tree
)

func parseError(name, src string, mapping *sourcemap.Consumer, err error) error {
	var list parser.ErrorList
	if !errors.As(err, &list) || len(list) == 0 {
		return &SourceError{File: name, Line: 1, Column: 1, Text: err.Error(), SourceLine: lineOf(src, 1)}
	}
	first := list[0]
	return locate(name, src, mapping, first.Position.Line, first.Position.Column, first.Message)
}

func compileError(name, src string, mapping *sourcemap.Consumer, err error) error {
	var (
		syntax    *goja.CompilerSyntaxError
		reference *goja.CompilerReferenceError
		at        goja.CompilerError
	)
	switch {
	case errors.As(err, &syntax):
		at = syntax.CompilerError
	case errors.As(err, &reference):
		at = reference.CompilerError
	default:
		at.Message = err.Error()
	}
	// A fresh file counts lines without the source map, which locate applies.
	pos := file.NewFile(name, src, 0).Position(at.Offset)
	return locate(name, src, mapping, pos.Line, pos.Column, at.Message)
}

// locate maps a generated position to the author's.
func locate(name, src string, mapping *sourcemap.Consumer, line, column int, text string) error {
	e := &SourceError{File: name, Line: line, Column: column, Text: text, SourceLine: lineOf(src, line)}
	if mapping == nil {
		return e
	}
	original, _, l, c, ok := mapping.Source(line, column-1)
	if !ok {
		return e
	}
	e.File, e.Line, e.Column = original, l, c+1
	if u := file.ResolveSourcemapURL(name, original); u != nil {
		e.File = u.String()
	}
	e.SourceLine = lineOf(mapping.SourceContent(original), l)
	return e
}

// lineOf is line n, from 1, cut to 1 000 bytes.
func lineOf(src string, n int) string {
	k := 0
	for line := range strings.Lines(src) {
		if k++; k == n {
			return clip(strings.TrimRight(line, "\r\n"), 1_000)
		}
	}
	return ""
}
