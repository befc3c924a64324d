package node_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ringfence/ringfence"

// mayImport is who may import whom within the module, tests apart. A name that ends in /... stands for every package below it.
// A package that no row names fails the test: its place must be decided before it is written.
var mayImport = []struct {
	packages []string
	imports  []string
}{
	{[]string{"ring", "actor", "transport/freeport"}, nil},
	{[]string{"ring/gossip", "store", "transport"}, []string{"ring"}},
	{[]string{"transport/tcp", "transport/inmem"}, []string{"transport", "ring"}},
	{[]string{"transport/client"}, []string{"ring", "actor", "transport", "transport/tcp"}},
	{[]string{"store/replica"}, []string{"ring", "store"}},
	{[]string{"actor/host"}, []string{"actor", "ring", "store"}},
	{[]string{"actor/actortest"}, []string{"actor", "actor/host", "ring", "store"}},
	{[]string{"actor/stock"}, []string{"actor"}},
	{[]string{"actor/examples/..."}, []string{"actor", "node", "transport/client"}},
	{[]string{"node"}, belowNode},
	{[]string{"node/..."}, append([]string{"node", "node/..."}, belowNode...)},
	{[]string{"bench"}, []string{"actor", "node", "transport/client"}},
	{[]string{"cmd", "cmd/..."}, []string{"actor", "actor/stock", "node", "bench", "transport/client", "transport/freeport", "cmd", "cmd/gen"}},
}

var belowNode = []string{"ring", "ring/gossip", "actor", "actor/host", "actor/actortest", "actor/stock", "store", "store/replica",
	"transport", "transport/tcp", "transport/inmem", "transport/client"}

// neverLinked are heavy modules that an application which only calls objects must not carry.
var neverLinked = map[string][]string{
	"transport/client": {"github.com/cockroachdb/pebble", "go.etcd.io/raft", "github.com/hashicorp/memberlist", module + "/store", module + "/node"},
	"actor":            {"github.com/cockroachdb/pebble", "go.etcd.io/raft", "github.com/hashicorp/memberlist", module + "/"},
}

// source is what the files of one directory say, whatever their build tags, test files apart.
type source struct {
	name     string            // in the package clause
	imports  map[string]string // import path → a file that has it
	comments []string          // files with a package comment
}

func TestImportTable(t *testing.T) {
	for dir, src := range readModule(t) {
		row, ok := rowOf(dir)
		if !ok {
			t.Errorf("package %s stands in no row of the import table: add it to mayImport in this file and to the README, or move it", dir)
			continue
		}
		for imp, file := range src.imports {
			if inner, ok := strings.CutPrefix(imp, module+"/"); ok && !allowed(row, inner) {
				t.Errorf("%s imports %s, which the import table does not allow for package %s", path.Join(dir, file), inner, dir)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for dir, src := range readModule(t) {
		switch {
		case len(src.comments) != 1:
			t.Errorf("package %s has %d package comments %v: want exactly one", dir, len(src.comments), src.comments)
		case src.name != "main" && src.comments[0] != "doc.go":
			t.Errorf("package %s has its package comment in %s: move it to doc.go", dir, src.comments[0])
		}
	}
}

func TestApplicationsLinkNoDatabase(t *testing.T) {
	for pkg, heavy := range neverLinked {
		if _, err := os.Stat(filepath.Join(root(t), pkg)); err != nil {
			t.Fatalf("package %s: %v", pkg, err)
		}
		cmd := exec.Command("go", "list", "-deps", "./"+pkg)
		cmd.Dir = root(t)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps ./%s: %v", pkg, err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, module+"/"+pkg) {
			t.Fatalf("go list -deps ./%s does not list the package itself", pkg)
		}
		for _, dep := range deps {
			for _, h := range heavy {
				if strings.HasPrefix(dep, h) && dep != module+"/"+pkg {
					t.Errorf("package %s links %s", pkg, dep)
				}
			}
		}
	}
}

// The table itself must be able to fail: these are imports that it forbids, and some that it allows.
func TestImportTableRefuses(t *testing.T) {
	for _, c := range []struct {
		pkg, imports string
		want         bool
	}{
		{"ring", "store", false},
		{"actor", "ring", false},
		{"transport/client", "store", false},
		{"transport/client", "transport/tcp", true},
		{"store/replica", "actor", false},
		{"node", "bench", false},
		{"node", "node/sim", false},
		{"node/sim", "node", true},
		{"bench", "store", false},
		{"cmd/ringfence", "cmd", true},
		{"cmd/ringfence", "ring", false},
		{"actor/examples/chat", "node", true},
	} {
		row, ok := rowOf(c.pkg)
		if !ok {
			t.Errorf("no row for %s", c.pkg)
		} else if got := allowed(row, c.imports); got != c.want {
			t.Errorf("%s imports %s: allowed %v, want %v", c.pkg, c.imports, got, c.want)
		}
	}
	for _, unknown := range []string{"pkg", "util", "ring/extra", "nodes", "actor/examples"} {
		if _, ok := rowOf(unknown); ok {
			t.Errorf("the table has a row for %s", unknown)
		}
	}
}

func rowOf(pkg string) (imports []string, ok bool) {
	for _, row := range mayImport {
		for _, p := range row.packages {
			if matches(p, pkg) {
				return row.imports, true
			}
		}
	}
	return nil, false
}

func allowed(row []string, imp string) bool {
	return slices.ContainsFunc(row, func(p string) bool { return matches(p, imp) })
}

func matches(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(pkg, below)
	}
	return pattern == pkg
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("the module's root should be the directory above this package: %v", err)
	}
	return dir
}

// readModule parses every package of the module by its directory, slash-separated and relative to the root. Directories that
// go ignores and nested modules are left out.
func readModule(t *testing.T) map[string]*source {
	t.Helper()
	top := root(t)
	packages := map[string]*source{}
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(top, p, d.Name())
		}
		if !strings.HasSuffix(d.Name(), ".go") || strings.HasSuffix(d.Name(), "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(top, filepath.Dir(p))
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(rel)
		if packages[dir] == nil {
			packages[dir] = &source{imports: map[string]string{}}
		}
		return packages[dir].add(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 10 {
		t.Fatalf("found only %d packages below %s", len(packages), top)
	}
	return packages
}

func skipDir(top, p, name string) error {
	if p == top {
		return nil
	}
	if name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func (s *source) add(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	s.name = f.Name.Name
	if isPackageComment(f.Doc) {
		s.comments = append(s.comments, filepath.Base(file))
	}
	for _, spec := range f.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		s.imports[imp] = filepath.Base(file)
	}
	return nil
}

// isPackageComment tells prose from directives such as //go:build, which the parser may attach to the package clause too.
func isPackageComment(doc *ast.CommentGroup) bool {
	return doc != nil && strings.TrimSpace(doc.Text()) != ""
}
