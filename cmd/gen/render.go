package gen

import (
	"fmt"
	"go/format"
	"go/scanner"
	"go/token"
	"go/types"
	"maps"
	"path"
	"slices"
	"strings"
)

// writer writes the source of one file.
type writer struct {
	pkg     *pkg
	imports map[string]string // import path → the name that it has in the file
	body    strings.Builder
}

// render is the source of a file with the stubs of classes.
func (p *pkg) render(classes []*class) ([]byte, error) {
	w := &writer{pkg: p, imports: map[string]string{}}
	w.load(actorPath, "actor")
	for _, c := range classes {
		w.class(c)
	}
	src := Header + "\n\npackage " + p.types.Name() + "\n\n" + w.importDecl() + w.body.String()
	out, err := format.Source([]byte(src))
	if err != nil {
		return nil, fmt.Errorf("the stub that was made of package %s is not Go, which is a mistake of ringfence gen: %w", p.types.Name(), err)
	}
	return out, nil
}

// load gives an imported package its name in the file: its own, unless that is taken.
func (w *writer) load(importPath, name string) string {
	if n, ok := w.imports[importPath]; ok {
		return n
	}
	taken := slices.Collect(maps.Values(w.imports))
	n := name
	for i := 2; w.pkg.types.Scope().Lookup(n) != nil || slices.Contains(taken, n); i++ {
		n = fmt.Sprintf("%s%d", name, i)
	}
	w.imports[importPath] = n
	return n
}

// importDecl lists the standard library first, as goimports does.
func (w *writer) importDecl() string {
	var std, others strings.Builder
	for _, p := range slices.Sorted(maps.Keys(w.imports)) {
		to, alias := &others, ""
		if head, _, _ := strings.Cut(p, "/"); !strings.Contains(head, ".") {
			to = &std
		}
		if n := w.imports[p]; n != path.Base(p) {
			alias = n + " "
		}
		fmt.Fprintf(to, "\t%s%q\n", alias, p)
	}
	return "import (\n" + std.String() + "\n" + others.String() + ")\n"
}

// typ is a type as the file writes it.
func (w *writer) typ(t types.Type) string {
	return types.TypeString(t, func(p *types.Package) string {
		if p == w.pkg.types {
			return ""
		}
		return w.load(p.Path(), p.Name())
	})
}

func (w *writer) class(c *class) {
	actor, stub := w.imports[actorPath], c.stub()
	fmt.Fprintf(&w.body, `
// %[1]s is an object of class %[2]s as its callers hold it: an %[3]s.Ref that has the class's methods.
type %[1]s struct{ %[3]s.Ref }

// New%[1]s is the object %[2]s/key. from is a *client.Client, or the *actor.State of an object that calls it. It does no I/O.
func New%[1]s(from %[3]s.Objects, key string) %[1]s {
	return %[1]s{from.Object(%[2]q, key)}
}
`, stub, c.name, actor)
	for _, m := range c.methods {
		w.method(stub, m)
	}
}

func (w *writer) method(stub string, m method) {
	actor, context := w.imports[actorPath], w.load("context", "context")
	arg, result := "", ""
	if m.arg != nil {
		arg = w.typ(m.arg)
	}
	if m.result != nil {
		result = w.typ(m.result)
	}
	taken := identifiers(actor, context, arg, result, "any nil")
	ctx, opts := unused("ctx", taken), unused("opts", taken)
	params, value := fmt.Sprintf("%s %s.Context", ctx, context), "nil"
	if m.arg != nil {
		value = m.param
		if value == "" || value == "_" {
			value = "arg"
		}
		value = unused(value, taken)
		params += fmt.Sprintf(", %s %s", value, arg)
	}
	params += fmt.Sprintf(", %s ...%s.CallOption", opts, actor)
	r := "r"
	if taken[r] {
		r = unused("ref", taken)
	}
	call := fmt.Sprintf("%s, %s.Ref, %q, %s, %s...", ctx, r, m.name, value, opts)

	comment(&w.body, m.doc, m.name+" calls the method "+m.name+" and waits for its answer.")
	if m.result != nil {
		fmt.Fprintf(&w.body, "func (%s %s) %s(%s) (%s, error) {\n\treturn %s.Call[%s](%s)\n}\n", r, stub, m.name, params, result, actor, result, call)
	} else {
		fmt.Fprintf(&w.body, "func (%s %s) %s(%s) error {\n\treturn %s.Ref.Call(%s, %q, %s, nil, %s...)\n}\n", r, stub, m.name, params, r, ctx, m.name, value, opts)
	}
	if m.result != nil {
		fmt.Fprintf(&w.body, "\n// Start%[1]s is %[1]s without waiting: Wait of what it returns does.\n", m.name)
		fmt.Fprintf(&w.body, "func (%s %s) Start%s(%s) %s.PendingOf[%s] {\n\treturn %s.Start[%s](%s)\n}\n", r, stub, m.name, params, actor, result, actor, result, call)
	} else {
		fmt.Fprintf(&w.body, "\n// Start%[1]s is %[1]s without waiting: Wait(ctx, nil) of what it returns does.\n", m.name)
		fmt.Fprintf(&w.body, "func (%s %s) Start%s(%s) *%s.Pending {\n\treturn %s.Ref.Start(%s, %q, %s, %s...)\n}\n", r, stub, m.name, params, actor, r, ctx, m.name, value, opts)
	}
}

// comment writes a text as a comment, after an empty line.
func comment(b *strings.Builder, text, otherwise string) {
	if text = strings.TrimRight(text, "\n"); text == "" {
		text = otherwise
	}
	b.WriteByte('\n')
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "\t") { // code within the comment
			b.WriteString("//" + line + "\n")
			continue
		}
		b.WriteString(strings.TrimRight("// "+line, " ") + "\n")
	}
}

// identifiers are those that occur in pieces of source.
func identifiers(pieces ...string) map[string]bool {
	found := map[string]bool{}
	for _, src := range pieces {
		var s scanner.Scanner
		file := token.NewFileSet().AddFile("", -1, len(src))
		s.Init(file, []byte(src), nil, 0)
		for {
			_, tok, lit := s.Scan()
			if tok == token.EOF {
				break
			}
			if tok == token.IDENT {
				found[lit] = true
			}
		}
	}
	return found
}

// unused is name, or one like it that is not taken, and takes it.
func unused(name string, taken map[string]bool) string {
	for taken[name] {
		name += "_"
	}
	taken[name] = true
	return name
}
