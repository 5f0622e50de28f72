package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layers is the whole structure: a package may import packages of lower layers,
// and of its own only those in siblings. A folder that is not listed fails the
// test, so a new package is placed on purpose.
var layers = map[string]int{
	"pkg/agent": 0, "internal/disk": 0, "internal/peer/raftmsg": 0, "internal/peer/peertest": 0, "internal/reload": 0,

	"pkg/storage": 1, "pkg/storage/internal/sqlite": 1, "pkg/storage/internal/session": 1, "pkg/storage/reference": 1, "pkg/storage/storagetest": 1,
	"pkg/storage/record": 1, "pkg/storage/commitlog": 1, "pkg/storage/engine": 1, "pkg/storage/internal/folder": 1,
	"pkg/storage/internal/apply": 1, "pkg/storage/internal/catalog": 1, "internal/raftgroup": 1, "internal/raftgroup/raftgrouptest": 1, "internal/peer": 1,
	"pkg/sandbox": 1, "internal/governor": 1, "proto/agentd/v1": 1, "internal/bundle": 1, "internal/disk/disktest": 1,
	"internal/certs": 1, "pkg/auth": 1,

	"pkg/placement": 2, "pkg/fiber": 2, "pkg/schedule": 2, "pkg/replication": 2, "pkg/replication/single": 2,

	"pkg/actor": 3,

	"pkg/jsagent": 4, "pkg/wake": 4, "pkg/route": 4, "pkg/server": 4, "pkg/client": 4, "internal/wire": 4,

	"pkg/node": 5,

	"internal/cli": 6, "cmd/agentd": 7, "internal/arch": 7, "internal/process": 6, "internal/demo": 7,
	"internal/bench": 7, "internal/e2e": 7, "internal/disktrial": 7,
}

// siblings are the arrows inside one layer, each with its reason.
var siblings = map[[2]string]string{
	{"pkg/storage/storagetest", "pkg/storage"}:                      "the conformance suite runs any engine",
	{"pkg/storage/reference", "pkg/storage"}:                        "an engine implements the interface",
	{"pkg/storage/reference", "pkg/storage/internal/sqlite"}:        "engines share one binding of SQLite",
	{"pkg/storage/reference", "pkg/storage/internal/session"}:       "engines share what SQL may do",
	{"pkg/storage/reference", "pkg/storage/internal/folder"}:        "engines share the lock and the format of a data folder",
	{"pkg/storage/internal/session", "pkg/storage"}:                 "rows, values and limits are the interface's",
	{"pkg/storage/internal/session", "pkg/storage/internal/sqlite"}: "a session runs on a connection",
	{"pkg/storage/record", "pkg/storage"}:                           "a record carries a wake",
	{"pkg/storage/internal/apply", "pkg/storage/record"}:            "the applier reads records",
	{"pkg/storage/internal/catalog", "pkg/storage"}:                 "the catalog implements the interface",
	{"pkg/storage/internal/catalog", "pkg/storage/record"}:          "the catalog learns from records",
	{"pkg/storage/internal/catalog", "pkg/storage/internal/sqlite"}: "its rows are in an SQLite file",
	{"pkg/storage/engine", "pkg/storage"}:                           "an engine implements the interface",
	{"pkg/storage/engine", "pkg/storage/record"}:                    "a commit becomes a record",
	{"pkg/storage/engine", "pkg/storage/internal/sqlite"}:           "engines share one binding of SQLite",
	{"pkg/storage/engine", "pkg/storage/internal/session"}:          "engines share what SQL may do",
	{"pkg/storage/engine", "pkg/storage/internal/apply"}:            "the engine's parts",
	{"pkg/storage/engine", "pkg/storage/internal/catalog"}:          "the engine's parts",
	{"pkg/storage/engine", "pkg/storage/internal/folder"}:           "the engine's parts",
	{"internal/raftgroup", "pkg/storage/commitlog"}:                 "groups keep their entries in the node's log",
	{"internal/raftgroup", "internal/peer"}:                         "groups of a cluster speak over the nodes' connections",
	{"internal/raftgroup/raftgrouptest", "internal/raftgroup"}:      "what tests of groups share",
	{"pkg/replication/single", "pkg/replication"}:                   "a node alone is assembled here, for the node and for tests",
	{"pkg/replication/single", "pkg/placement"}:                     "which shard an agent belongs to",
	{"pkg/server", "internal/wire"}:                                 "protobuf stops in wire",
	{"pkg/client", "internal/wire"}:                                 "protobuf stops in wire",
}

// upward are the few arrows against the layers, each with its reason.
var upward = map[[2]string]string{
	{"internal/bundle", "pkg/placement"}: "the size limit of a bundle has one home",
}

// doors says which packages may import a third-party module (by prefix of the
// import path), and why so few.
var doors = []struct {
	module  string
	allowed []string
	why     string
}{
	{"github.com/dop251/goja", []string{"pkg/sandbox", "pkg/jsagent"}, "JavaScript values must not spread"},
	{"github.com/dlclark/regexp2", []string{"pkg/sandbox"}, "its time limit is a global of the sandbox"},
	{"github.com/mattn/go-sqlite3", []string{"pkg/storage", "pkg/storage/storagetest", "internal/bench"}, "one package knows SQLite; the bench compares with it"},
	{"github.com/golang-jwt/jwt", []string{"pkg/auth"}, "tokens are checked in one place"},
	{"C", []string{"pkg/storage"}, "cgo stays behind storage's interface"},
	{"github.com/evanw/esbuild", []string{"internal/bundle"}, "one package bundles classes"},
	{"github.com/hashicorp/raft", []string{"internal/raftgroup"}, "raft stands behind an interface of ours"},
	{"google.golang.org/grpc", []string{"pkg/server", "pkg/client", "internal/wire", "pkg/node", "proto/agentd/v1", "internal/bench"}, "the heart speaks agent.Call, not gRPC"},
	{"google.golang.org/protobuf", []string{"internal/wire", "pkg/server", "pkg/client", "proto/agentd/v1"}, "protobuf types never go below the edge"},
	{"agentd/proto/agentd/v1", []string{"internal/wire", "pkg/server", "pkg/client"}, "protobuf types never go below the edge"},
	{"testing", []string{"pkg/storage/storagetest", "internal/raftgroup/raftgrouptest"}, "test code is not shipped"},
	{"github.com/alecthomas/kong", []string{"internal/cli", "cmd/agentd"}, "flags are read at the edge"},
	{"database/sql", []string{"pkg/storage/storagetest", "internal/bench"}, "agents' databases are used at driver level"},
}

type use struct {
	pkg, path, where string
	test             bool
}

func TestImports(t *testing.T) {
	for _, u := range imports(t, filepath.Join("..", "..")) {
		checkDoor(t, u)
		if to, ok := strings.CutPrefix(u.path, "agentd/"); ok {
			checkLayer(t, u, to)
		}
	}
}

func checkLayer(t *testing.T, u use, to string) {
	t.Helper()
	from, known := layers[u.pkg]
	if !known {
		t.Errorf("%s: package %s has no layer; give it one in internal/arch", u.where, u.pkg)
		return
	}
	target, known := layers[to]
	if !known {
		t.Errorf("%s: imports %s, which has no layer; give it one in internal/arch", u.where, to)
		return
	}
	arrow := [2]string{u.pkg, to}
	switch {
	case u.test, u.pkg == to, target < from, siblings[arrow] != "", upward[arrow] != "":
	case target == from:
		t.Errorf("%s: %s and %s are of one layer (%d); an arrow between them needs a reason in siblings", u.where, u.pkg, to, from)
	default:
		t.Errorf("%s: arrow points up: %s (layer %d) imports %s (layer %d)", u.where, u.pkg, from, to, target)
	}
}

func checkDoor(t *testing.T, u use) {
	t.Helper()
	if u.test {
		return
	}
	for _, d := range doors {
		if u.path != d.module && !strings.HasPrefix(u.path, d.module+"/") {
			continue
		}
		open := false
		for _, p := range d.allowed {
			open = open || u.pkg == p || strings.HasPrefix(u.pkg, p+"/internal/")
		}
		if !open {
			t.Errorf("%s: %s may not import %s: %s", u.where, u.pkg, u.path, d.why)
		}
	}
}

// TestClock keeps time and randomness out of the packages that must replay: rows
// and rules, tables, vocabulary.
func TestClock(t *testing.T) {
	pure := []string{"pkg/agent", "pkg/fiber", "pkg/schedule", "pkg/placement"}
	for _, dir := range pure {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			parsed, err := parser.ParseFile(fset, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if ok && (x.Name == "time" && (sel.Sel.Name == "Now" || sel.Sel.Name == "Sleep" || sel.Sel.Name == "After") || x.Name == "rand") {
					t.Errorf("%s: %s.%s: time and randomness are arguments here", fset.Position(n.Pos()), x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// imports lists every import of every Go file under root.
func imports(t *testing.T, root string) []use {
	t.Helper()
	var all []use
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if name == "node_modules" || name == "testdata" || name == "tools" || (strings.HasPrefix(name, ".") && name != ".." && name != ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			all = append(all, use{
				pkg: filepath.ToSlash(rel), path: name,
				where: fset.Position(spec.Pos()).String(), test: strings.HasSuffix(path, "_test.go"),
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		cwd, _ := os.Getwd()
		t.Fatalf("no imports found from %s", cwd)
	}
	return all
}
