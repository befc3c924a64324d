package gen

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newModule writes a module that uses the one under test, and returns its directory.
func newModule(t *testing.T, files map[string]string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "go.mod", strings.Replace(string(mod), "module "+module, "module example.com/app", 1)+
		"\nrequire "+module+" v0.0.0\n\nreplace "+module+" => "+root+"\n")
	write(t, dir, "go.sum", string(sum))
	for name, src := range files {
		write(t, dir, name, src)
	}
	return dir
}

func write(t *testing.T, dir, name, src string) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
}

// source is a file of package p with what most cases need.
func source(body string) string {
	return "package p\n\nimport (\n\t\"context\"\n\n\t\"github.com/ringfence/ringfence/actor\"\n)\n\nvar (\n\t_ context.Context\n\t_ actor.Class\n)\n\n" + body
}

// constructor defines class C with type *T.
const constructor = `
type T struct{}

func newT(context.Context, *actor.State) (*T, error) { return &T{}, nil }

var C = actor.Define("C", newT)
`

// fewLists asks go list once for the same imports, and not at all about a package that is one file a.go.
func fewLists() lister {
	known := map[string][]listed{}
	return func(ctx context.Context, dir string, args ...string) ([]listed, error) {
		key := strings.Join(args, " ")
		if src, err := os.ReadFile(filepath.Join(dir, "a.go")); args[0] == "-find" && err == nil && strings.HasPrefix(string(src), "package p\n\nimport") {
			return []listed{{ImportPath: "example.com/app/" + filepath.Base(dir), Name: "p", GoFiles: goFiles(dir)}}, nil
		}
		if args[0] != "-find" && known[key] != nil {
			return known[key], nil
		}
		found, err := goList(ctx, dir, args...)
		known[key] = found
		return found, err
	}
}

func goFiles(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return slices.DeleteFunc(files, func(name string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err != nil || info.IsDir()
	})
}

func TestRefuses(t *testing.T) {
	cases := []struct {
		name, src string
		o         Options
		want      []string
	}{
		{"noclass", source(""), Options{}, []string{"package p calls actor.Define nowhere", "--type"}},
		{"notype", source(constructor), Options{Types: []string{"X"}}, []string{"package p has no type X"}},
		{"noname", source(constructor), Options{Class: "X"}, []string{"defines no class X, but C"}},
		{"badname", source(constructor), Options{Class: "9x"}, []string{"--class", `"9x"`}},
		{"twotypes", source(constructor), Options{Class: "C", Types: []string{"T", "U"}}, []string{"--class C with 2 types"}},
		{"badclass", source(strings.Replace(constructor, `"C"`, `"a-b"`, 1)), Options{}, []string{`"a-b"`}},
		{"variable", source(strings.Replace(constructor, `"C"`, `name`, 1) + "var name = \"C\""), Options{}, []string{"a.go:19:", "not a constant", "--class"}},
		{"variable2", source(strings.Replace(constructor, `"C"`, `name`, 1) + "var name = \"C\""), Options{Types: []string{"T"}}, []string{"not a constant", "--class"}},
		{"twice", source(constructor + `
			type U struct{}
			var D = actor.Define("C", func(context.Context, *actor.State) (*U, error) { return nil, nil })`), Options{}, []string{"class C is defined twice", "--type"}},
		{"unexported", source(constructor + `
			type order struct{}
			func (*T) Buy(context.Context, []order) error { return nil }`), Options{}, []string{"class C: method Buy takes a []p.order", "export the type"}},
		{"unexported2", source(constructor + `
			type order struct{}
			func (*T) List(context.Context) (map[string]*order, error) { return nil, nil }`), Options{}, []string{"method List returns a map[string]*p.order", "export the type"}},
		{"unexported3", source(constructor + `
			type Box[X any] struct{}
			type order = int
			func (*T) Buy(context.Context, struct{ B Box[order] }) error { return nil }`), Options{}, []string{"method Buy", "cannot name order", "export the type"}},
		{"local", source(`var C = func() actor.Class {
			type order struct{}
			return actor.Define("C", func(context.Context, *actor.State) (*T[order], error) { return nil, nil })
		}()
		type T[X any] struct{}
		func (*T[X]) Buy(context.Context, X) error { return nil }`), Options{}, []string{"method Buy", "order is declared within a function", "declare it in the package"}},
		{"typeparam", source(`func Make[X any]() actor.Class { return actor.Define("C", newT[X]) }
		type T[X any] struct{}
		func newT[X any](context.Context, *actor.State) (*T[X], error) { return nil, nil }
		func (*T[X]) Buy(context.Context, []X) error { return nil }`), Options{}, []string{"method Buy", "X is a type parameter"}},
		{"typeparam2", source(`func Make[X any](newX func(context.Context, *actor.State) (X, error)) actor.Class { return actor.Define("C", newX) }`),
			Options{}, []string{"class C", "type parameter"}},
		{"generic", source("type T[X any] struct{}"), Options{Types: []string{"T"}}, []string{"type T is generic", "actor.Define"}},
		{"shape", source(constructor + "func (*T) Two(context.Context, int, int) error { return nil }\nfunc (*T) None(context.Context) {}"), Options{},
			[]string{"class C: method Two takes 2 arguments (make them one struct)", "method None does not return an error last", "take no context"}},
		{"alarm", source(constructor + "func (*T) Alarm(context.Context) error { return nil }"), Options{}, []string{"the name Alarm is for the handler", "another name"}},
		{"ref", source(constructor + "func (*T) Ref(context.Context) error { return nil }"), Options{}, []string{"method Ref", "rename it"}},
		{"start", source(constructor + "func (*T) Job(context.Context) error { return nil }\nfunc (*T) StartJob(context.Context) error { return nil }"), Options{},
			[]string{"method StartJob", "starts Job", "rename"}},
		{"taken", source(constructor + "type CRef int"), Options{}, []string{"a.go:20:", "CRef is what the stub of class C declares", "rename"}},
		{"taken2", source(constructor + "func NewCRef() {}"), Options{}, []string{"NewCRef"}},
		{"case", source(constructor + "type U struct{}\n var D = actor.Define(\"c\", func(context.Context, *actor.State) (*U, error) { return nil, nil })"), Options{},
			[]string{"the classes C and c would have stubs of the same name"}},
		{"unknown", source(constructor + "func (*T) Buy(context.Context, Missing) error { return nil }"), Options{}, []string{"method Buy", "a.go:20:", "undefined: Missing"}},
		{"embedded", source("type T struct { *Missing }\nvar C = actor.Define(\"C\", func(context.Context, *actor.State) (*T, error) { return nil, nil })"), Options{},
			[]string{"class C", "embedded Missing", "undefined: Missing"}},
		{"unknownclass", source("var C = actor.Define(\"C\", newMissing)"), Options{}, []string{"a.go:14:", "what the constructor of class C returns", "undefined: newMissing"}},
		{"noimport", "package p\n\nimport \"example.com/app/missing\"\n\nvar C = missing.Define()\n", Options{}, []string{"calls actor.Define nowhere", "example.com/app/missing"}},
		{"syntax", "package p\n\nfunc {\n", Options{}, []string{"cannot be read", "a.go:3:6"}},
		{"clause", "pakage p\n", Options{}, []string{"a.go:1:1", "expected 'package'"}},
		{"empty", "", Options{}, []string{"a.go:1:1", "expected 'package'"}},
		{"tests", "", Options{}, []string{"--package", "no Go files but tests"}},
		{"nofiles", "", Options{}, []string{"--package", "no Go files"}},
		{"outdir", source(constructor), Options{Out: "elsewhere.go"}, []string{"--out elsewhere.go", "want a file in"}},
		{"outname", source(constructor), Options{Out: "refs"}, []string{"--out refs", "want the name of a Go file"}},
		{"mine", source(constructor), Options{}, []string{"c_ref.go is there and was not written by ringfence gen"}},
		{"isdir", source(constructor), Options{}, []string{"the stub cannot be written", "c_ref.go"}},
		{"moved", source(constructor), Options{}, []string{"old.go declares CRef already", "remove that file"}},
	}
	files := map[string]string{
		"mine/c_ref.go": "package p\n", "isdir/c_ref.go/x": "", "moved/old.go": Header + "\n\npackage p\n\ntype CRef struct{}\n",
		"tests/a_test.go": "package p\n", "nofiles/README": "",
	}
	for _, c := range cases {
		if c.name != "tests" && c.name != "nofiles" {
			files[c.name+"/a.go"] = c.src
		}
	}
	dir, list := newModule(t, files), fewLists()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.o.Dir = filepath.Join(dir, c.name)
			before := entries(t, c.o.Dir)
			changed, err := run(t.Context(), list, c.o)
			if err == nil || changed != nil {
				t.Fatalf("changed %v, error %v", changed, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			if after := entries(t, c.o.Dir); !slices.Equal(before, after) {
				t.Errorf("files %v, before %v", after, before)
			}
		})
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestNoPackage(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.go", "package p\n")
	for where, want := range map[string]string{
		filepath.Join(dir, "missing"): "want the directory of a Go package",
		filepath.Join(dir, "a.go"):    "want the directory of a Go package",
	} {
		if _, err := Run(t.Context(), Options{Dir: where}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
	}
	t.Setenv("PATH", dir)
	if _, err := Run(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "go list") || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("without go: %v", err)
	}
}

// program uses its own stub, so that it does not compile without, and names that the stub would like to have itself.
const program = `package main

import (
	stdcontext "context"

	ringfence "github.com/ringfence/ringfence/actor")

var context, actor = 1, 2

type order struct{ N int }

type Shop struct{ s *ringfence.State; audit AuditRef }

func newShop(ctx stdcontext.Context, s *ringfence.State) (*Shop, error) {
	return &Shop{s, NewAuditRef(s, "log")}, nil
}

// Buy buys.
func (s *Shop) Buy(ctx stdcontext.Context, order order) (order, error) {
	return order, s.audit.Add(ctx, "bought")
}

type Audit struct{}

func (a *Audit) Add(ctx stdcontext.Context, line string) error { return nil }

func main() {
	r := NewShopRef(nil, "x")
	_, _ = r.StartBuy(nil, order{context + actor}).Wait(nil)
	run(
		ringfence.Define("Shop", newShop, ringfence.Version(context)),
		ringfence.Define("Audit", func(stdcontext.Context, *ringfence.State) (*Audit, error) { return &Audit{}, nil }),
	)
}

func run(...ringfence.Class) {}
`

// A program that does not compile without its stubs compiles with them. What is there already is not touched, what is not right any more
// is replaced.
func TestRun(t *testing.T) {
	dir := newModule(t, map[string]string{"main.go": strings.Replace(program, "order order) (order, error)", "o order) (order, error)", 1)})
	src, err := os.ReadFile(filepath.Join(dir, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "main.go", strings.Replace(string(src), "return order, s.audit", "return o, s.audit", 1))
	run := func(o Options, want ...string) {
		t.Helper()
		o.Dir = dir
		changed, err := Run(t.Context(), o)
		for i := range changed {
			changed[i] = filepath.Base(changed[i])
		}
		if err != nil || !slices.Equal(changed, want) {
			t.Fatalf("changed %v, %v, want %v", changed, err, want)
		}
	}
	run(Options{}, "audit_ref.go", "shop_ref.go")
	c := exec.Command("go", "vet", ".")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
	shop, err := os.ReadFile(filepath.Join(dir, "shop_ref.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		Header + "\n\npackage main\n\nimport (\n\tcontext2 \"context\"\n\n\tactor2 \"github.com/ringfence/ringfence/actor\"\n)\n",
		"// Buy buys.\nfunc (r ShopRef) Buy(ctx context2.Context, o order, opts ...actor2.CallOption) (order, error) {\n\treturn actor2.Call[order](ctx, r.Ref, \"Buy\", o, opts...)\n}\n",
	} {
		if !strings.Contains(string(shop), want) {
			t.Errorf("no\n%s\nin\n%s", want, shop)
		}
	}
	run(Options{})
	run(Options{Types: []string{"Shop"}})
	write(t, dir, "audit_ref.go", Header+"\n\nthis is a stub that was cut off")
	run(Options{Class: "Audit"}, "audit_ref.go")
	if err := os.Remove(filepath.Join(dir, "shop_ref.go")); err != nil {
		t.Fatal(err)
	}
	run(Options{Types: []string{"*Shop"}, Out: filepath.Join(dir, "refs.go")}, "refs.go")
	write(t, dir, "lib.go", "package main\n\nimport \"context\"\n\ntype Plain struct{}\n\nfunc (*Plain) Do(context.Context) error { return nil }\n\nfunc (Plain) Alarm(context.Context, int) {}\n")
	if _, err := Run(t.Context(), Options{Dir: dir, Types: []string{"Plain"}}); err == nil || !strings.Contains(err.Error(), "Alarm") {
		t.Errorf("Alarm of another shape: %v", err)
	}
	write(t, dir, "lib.go", "package main\n\nimport c \"context\"\n\ntype Plain struct{}\n\nfunc (*Plain) Do(c.Context) error { return nil }\n")
	run(Options{Types: []string{"Plain"}, Class: "Simple"}, "simple_ref.go")
	run(Options{Types: []string{"Plain"}}, "plain_ref.go")
}
