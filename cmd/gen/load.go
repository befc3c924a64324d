package gen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// lister runs go list in a directory.
type lister func(ctx context.Context, dir string, args ...string) ([]listed, error)

// pkg is the package of the classes, as far as it could be checked.
type pkg struct {
	dir   string
	fset  *token.FileSet
	files []*ast.File
	stubs map[string][]string // file name → what it declares: files written by this program, which are not part of files
	types *types.Package
	info  types.Info
	errs  []error              // what the type checker found
	docs  map[token.Pos]string // comments of methods, by the position of the name; nil until the first is asked for
}

// listed is what go list says about a package.
type listed struct {
	ImportPath, Name, Export string
	GoFiles, CgoFiles        []string
	Error                    *struct{ Pos, Err string }
}

func load(ctx context.Context, list lister, dir string) (*pkg, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("--package %s: want the directory of a Go package", dir)
	}
	found, err := list(ctx, dir, "-find", "--", ".")
	if err != nil {
		return nil, err
	}
	p := &pkg{dir: dir, fset: token.NewFileSet(), stubs: map[string][]string{}}
	switch {
	case len(found) != 1:
		return nil, fmt.Errorf("--package %s: want the directory of one Go package, and go list finds %d", dir, len(found))
	case len(found[0].GoFiles)+len(found[0].CgoFiles) > 0:
	case found[0].Error != nil:
		return nil, fmt.Errorf("--package %s: %s", dir, strings.TrimSpace(found[0].Error.Pos+" "+found[0].Error.Err))
	default:
		return nil, fmt.Errorf("--package %s: it has no Go files but tests", dir)
	}
	if err := p.parse(slices.Concat(found[0].GoFiles, found[0].CgoFiles)); err != nil {
		return nil, err
	}
	return p, p.check(ctx, list, found[0].ImportPath)
}

// parse reads the package's files, less the stubs.
func (p *pkg) parse(names []string) error {
	for _, name := range names {
		full := filepath.Join(p.dir, name)
		src, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(src, []byte(Header)) {
			p.stubs[name] = declared(src)
			continue
		}
		f, err := parser.ParseFile(p.fset, full, src, parser.ParseComments|parser.SkipObjectResolution)
		if list := (scanner.ErrorList)(nil); errors.As(err, &list) {
			return fmt.Errorf("the package cannot be read: %w", list[0])
		} else if err != nil {
			return err
		}
		p.files = append(p.files, f)
	}
	if len(p.files) == 0 {
		return fmt.Errorf("--package %s: it has no Go file but stubs", p.dir)
	}
	return nil
}

// check finds the types of the package, and goes on after errors.
func (p *pkg) check(ctx context.Context, list lister, path string) error {
	exports, err := p.exports(ctx, list)
	if err != nil {
		return err
	}
	lookup := func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, errors.New("it does not compile, or cannot be found: see go build " + path)
		}
		return os.Open(exports[path])
	}
	p.info = types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Instances: map[*ast.Ident]types.Instance{}, Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{
		Importer:    importer.ForCompiler(p.fset, "gc", lookup),
		Error:       func(err error) { p.errs = append(p.errs, err) },
		FakeImportC: true,
		Sizes:       types.SizesFor("gc", runtime.GOARCH),
	}
	p.types, _ = config.Check(path, p.fset, p.files, &p.info) // its error is the first of errs
	return nil
}

// exports finds the export data of all that the package imports, which makes go compile what is not compiled yet. It says all that is needed of
// what those packages import in turn.
func (p *pkg) exports(ctx context.Context, list lister) (map[string]string, error) {
	imports := map[string]bool{}
	for _, f := range p.files {
		for _, spec := range f.Imports {
			if path, err := strconv.Unquote(spec.Path.Value); err == nil && path != "C" && path != "unsafe" {
				imports[path] = true
			}
		}
	}
	if len(imports) == 0 {
		return nil, nil
	}
	args := append([]string{"-export", "--"}, slices.Sorted(maps.Keys(imports))...)
	found, err := list(ctx, p.dir, args...)
	if err != nil {
		return nil, err
	}
	exports := make(map[string]string, len(found))
	for _, l := range found {
		exports[l.ImportPath] = l.Export
	}
	return exports, nil
}

func goList(ctx context.Context, dir string, args ...string) ([]listed, error) {
	c := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-json=ImportPath,Name,Export,GoFiles,CgoFiles,Error"}, args...)...)
	c.Dir = dir
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return nil, fmt.Errorf("go list in %s: %s", dir, text)
		}
		return nil, fmt.Errorf("go list in %s: %w", dir, err)
	}
	var all []listed
	for d := json.NewDecoder(&stdout); ; {
		var l listed
		if err := d.Decode(&l); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list in %s: %w", dir, err)
		}
		all = append(all, l)
	}
}

func (p *pkg) position(pos token.Pos) token.Position { return p.fset.Position(pos) }

// because is the first of the errors that the type checker found, as the end of a sentence.
func (p *pkg) because() string {
	if len(p.errs) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%v)", p.errs[0])
}
