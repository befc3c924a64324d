package gen

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// method is a callable method.
type method struct {
	name   string
	doc    string     // the text of its comment; empty if it has none
	param  string     // the name of its argument; may be empty or _
	arg    types.Type // nil if it takes none
	result types.Type // nil if it returns none
}

// callable lists the callable methods of c, sorted by name. The rule, and the texts, are those of actor.Define, which sees the same types by
// reflection: a test holds both together. What Define lets pass, but no stub can express, is refused too.
func (p *pkg) callable(c *class) ([]method, error) {
	if why := p.hidden(c.typ); why != "" {
		return nil, fmt.Errorf("class %s: its methods cannot be found out: %s", c.name, why)
	}
	var methods []method
	var errs []error
	set := types.NewMethodSet(c.typ)
	for i := range set.Len() {
		fn := set.At(i).Obj().(*types.Func)
		if !fn.Exported() {
			continue
		}
		m, err := p.method(c, fn)
		if err != nil {
			errs = append(errs, err)
		} else if m != nil {
			m.doc = p.doc(fn.Pos())
			methods = append(methods, *m)
		}
	}
	slices.SortFunc(methods, func(a, b method) int { return strings.Compare(a.name, b.name) })
	errs = append(errs, p.clashes(c, methods))
	return methods, errors.Join(errs...)
}

// hidden says why the methods of t cannot be known.
func (p *pkg) hidden(t types.Type) string {
	if ptr, ok := types.Unalias(t).(*types.Pointer); ok {
		t = ptr.Elem()
	}
	if _, ok := types.Unalias(t).(*types.TypeParam); ok {
		return "its type is a type parameter: call actor.Define with the type itself"
	}
	if s, ok := t.Underlying().(*types.Struct); ok {
		for f := range s.Fields() {
			if f.Embedded() && isInvalid(f.Type()) {
				return fmt.Sprintf("the type of the embedded %s is not known%s", f.Name(), p.because())
			}
		}
	}
	if isInvalid(t) {
		return "its type is not known" + p.because()
	}
	return ""
}

func isInvalid(t types.Type) bool {
	if ptr, ok := types.Unalias(t).(*types.Pointer); ok {
		t = ptr.Elem()
	}
	return t.Underlying() == types.Typ[types.Invalid]
}

// method looks at one exported method: nil and no error if it is not callable.
func (p *pkg) method(c *class, fn *types.Func) (*method, error) {
	sig := fn.Signature()
	in, out := sig.Params(), sig.Results()
	if fn.Name() == "Alarm" {
		if isAlarm(sig) {
			return nil, nil
		}
		return nil, fmt.Errorf("class %s: the name Alarm is for the handler of alarms: want Alarm(ctx context.Context, info actor.AlarmInfo) error, or another name", c.name)
	}
	if in.Len() == 0 || !isNamed(in.At(0).Type(), "context", "Context") {
		return nil, nil
	}
	bad := func(why string) (*method, error) {
		return nil, fmt.Errorf("class %s: method %s %s: want func(ctx context.Context [, arg A]) ([R,] error); to keep it from callers, take no context", c.name, fn.Name(), why)
	}
	m := &method{name: fn.Name()}
	switch n := in.Len(); {
	case sig.Variadic():
		return bad("is variadic")
	case n > 2:
		return bad(fmt.Sprintf("takes %d arguments (make them one struct)", n-1))
	case n == 2:
		m.param, m.arg = in.At(1).Name(), in.At(1).Type()
	}
	switch n := out.Len(); {
	case n == 0 || !types.Identical(out.At(n-1).Type(), types.Universe.Lookup("error").Type()):
		return bad("does not return an error last")
	case n > 2:
		return bad(fmt.Sprintf("returns %d values before the error", n-1))
	case n == 2:
		m.result = out.At(0).Type()
	}
	if m.arg != nil && !travels(m.arg) {
		return bad(fmt.Sprintf("takes a %s, which cannot be sent", short(m.arg)))
	}
	if m.result != nil && !travels(m.result) {
		return bad(fmt.Sprintf("returns a %s, which cannot be sent", short(m.result)))
	}
	return m, p.canName(c, m)
}

func isNamed(t types.Type, path, name string) bool {
	n, ok := types.Unalias(t).(*types.Named)
	return ok && n.Obj().Name() == name && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == path
}

func isAlarm(sig *types.Signature) bool {
	in, out := sig.Params(), sig.Results()
	return !sig.Variadic() && in.Len() == 2 && out.Len() == 1 &&
		isNamed(in.At(0).Type(), "context", "Context") && isNamed(in.At(1).Type(), actorPath, "AlarmInfo") &&
		types.Identical(out.At(0).Type(), types.Universe.Lookup("error").Type())
}

func travels(t types.Type) bool {
	switch t := t.Underlying().(type) {
	case *types.Chan, *types.Signature:
		return false
	case *types.Basic:
		return t.Kind() != types.UnsafePointer
	}
	return true
}

// short is a type with the names of packages, as reflection prints it.
func short(t types.Type) string {
	return types.TypeString(t, (*types.Package).Name)
}

// clashes reports methods whose names a stub needs for itself.
func (p *pkg) clashes(c *class, methods []method) error {
	var errs []error
	for _, m := range methods {
		if m.name == "Ref" {
			errs = append(errs, fmt.Errorf("class %s: method Ref has the name of what its stub holds, the actor.Ref: rename it", c.name))
		}
		started := "Start" + m.name
		if slices.ContainsFunc(methods, func(o method) bool { return o.name == started }) {
			errs = append(errs, fmt.Errorf("class %s: method %s has the name by which the stub starts %s without waiting: rename one of them", c.name, started, m.name))
		}
	}
	return errors.Join(errs...)
}

// doc is the comment of the method that is declared at pos.
func (p *pkg) doc(pos token.Pos) string {
	if p.docs == nil {
		p.docs = map[token.Pos]string{}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					p.docs[n.Name.Pos()] = n.Doc.Text()
					return false
				case *ast.InterfaceType:
					for _, m := range n.Methods.List {
						for _, name := range m.Names {
							p.docs[name.Pos()] = m.Doc.Text()
						}
					}
				}
				return true
			})
		}
	}
	return p.docs[pos]
}
