package gen

import (
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"

	"github.com/ringfence/ringfence/actor"
)

// class is a class of the package.
type class struct {
	name    string     // empty if it is not a constant
	typ     types.Type // what its constructor returns; nil if that could not be found out
	pos     token.Pos  // of the call of actor.Define
	methods []method
}

// stub is the name of the stub's type.
func (c *class) stub() string { return strings.ToUpper(c.name[:1]) + c.name[1:] + "Ref" }

// choose finds the classes that o asks for, sorted by name, with their methods.
func (p *pkg) choose(o Options) ([]*class, error) {
	if o.Class != "" {
		if err := actor.ValidateClass(o.Class); err != nil {
			return nil, fmt.Errorf("--class: %w", err)
		}
		if len(o.Types) > 1 {
			return nil, fmt.Errorf("--class %s with %d types: want one --type, or none", o.Class, len(o.Types))
		}
	}
	defined := p.defined()
	var chosen []*class
	for _, name := range o.Types {
		classes, err := p.ofType(defined, name, o.Class)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, classes...)
	}
	if len(o.Types) == 0 {
		var err error
		if chosen, err = p.allOf(defined, o.Class); err != nil {
			return nil, err
		}
	}
	chosen, err := p.distinct(chosen)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, c := range chosen {
		errs = append(errs, actor.ValidateClass(c.name))
		c.methods, err = p.callable(c)
		errs = append(errs, err)
	}
	return chosen, errors.Join(errs...)
}

// allOf is every class that the package defines, or those of one name.
func (p *pkg) allOf(defined []*class, name string) ([]*class, error) {
	if len(defined) == 0 {
		return nil, fmt.Errorf("package %s calls actor.Define nowhere%s: name the Go type of the class with --type, and the class with --class if it has another name", p.types.Name(), p.because())
	}
	var chosen []*class
	for _, c := range defined {
		switch {
		case name != "" && c.name != name:
			continue
		case c.name == "":
			return nil, fmt.Errorf("%v: the name that actor.Define is given is not a constant%s: make it one, or give --type and --class", p.position(c.pos), p.because())
		case c.typ == nil:
			return nil, fmt.Errorf("%v: what the constructor of class %s returns cannot be found out%s", p.position(c.pos), c.name, p.because())
		}
		chosen = append(chosen, c)
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("package %s defines no class %s, but %s: give one of these, or the Go type with --type", p.types.Name(), name, names(defined))
	}
	return chosen, nil
}

// ofType is the classes whose objects are of a type of the package: those that it defines so, or one of its own making.
func (p *pkg) ofType(defined []*class, name, as string) ([]*class, error) {
	name = strings.TrimPrefix(name, "*")
	var chosen []*class
	for _, c := range defined {
		if typeName(c.typ) != name {
			continue
		}
		if c.name == "" && as != "" {
			c.name = as
		}
		if as == "" && c.name == "" {
			return nil, fmt.Errorf("%v: the name that actor.Define is given is not a constant: name the class with --class", p.position(c.pos))
		}
		if as == "" || c.name == as {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) > 0 {
		return chosen, nil
	}
	t, ok := p.types.Scope().Lookup(name).(*types.TypeName)
	if !ok {
		return nil, fmt.Errorf("package %s has no type %s%s: want the Go type that the constructor of a class returns", p.types.Name(), name, p.because())
	}
	typ := t.Type()
	if n, ok := types.Unalias(typ).(*types.Named); ok && n.TypeParams().Len() > 0 {
		return nil, fmt.Errorf("type %s is generic: make a class of it with actor.Define in this package, with the type's arguments filled in", name)
	}
	if !types.IsInterface(typ) {
		typ = types.NewPointer(typ)
	}
	if as == "" {
		as = name
	}
	return []*class{{name: as, typ: typ, pos: t.Pos()}}, nil
}

// typeName is the name of a type, or of what it points to; empty if it has none.
func typeName(t types.Type) string {
	if t == nil {
		return ""
	}
	if ptr, ok := types.Unalias(t).(*types.Pointer); ok {
		t = ptr.Elem()
	}
	switch t := t.(type) {
	case *types.Named:
		return t.Obj().Name()
	case *types.Alias:
		return t.Obj().Name()
	}
	return ""
}

// distinct sorts the classes by name, each once.
func (p *pkg) distinct(classes []*class) ([]*class, error) {
	slices.SortStableFunc(classes, func(a, b *class) int { return strings.Compare(a.name, b.name) })
	var out []*class
	for _, c := range classes {
		if n := len(out); n == 0 || out[n-1].name != c.name {
			out = append(out, c)
		} else if last := out[n-1]; !types.Identical(last.typ, c.typ) {
			return nil, fmt.Errorf("class %s is defined twice, at %v and %v, with different types: choose one with --type", c.name, p.position(last.pos), p.position(c.pos))
		}
	}
	return out, nil
}

func names(classes []*class) string {
	var all []string
	for _, c := range classes {
		if c.name != "" {
			all = append(all, c.name)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// defined finds the calls of actor.Define, in the order of the files.
func (p *pkg) defined() []*class {
	var classes []*class
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if c := p.define(call); c != nil {
					classes = append(classes, c)
				}
			}
			return true
		})
	}
	return classes
}

// define reads one call; nil if it is not of actor.Define.
func (p *pkg) define(call *ast.CallExpr) *class {
	id := calledName(call.Fun)
	if id == nil || len(call.Args) < 2 {
		return nil
	}
	fn, ok := p.info.Uses[id].(*types.Func)
	if !ok || fn.Pkg() == nil || fn.Pkg().Path() != actorPath || fn.Name() != "Define" {
		return nil
	}
	c := &class{pos: call.Pos()}
	if v := p.info.Types[call.Args[0]].Value; v != nil && v.Kind() == constant.String {
		c.name = constant.StringVal(v)
	}
	if inst, ok := p.info.Instances[id]; ok && inst.TypeArgs.Len() == 1 {
		c.typ = inst.TypeArgs.At(0)
	} else if sig, ok := p.info.Types[call.Args[1]].Type.(*types.Signature); ok && sig.Results().Len() == 2 {
		c.typ = sig.Results().At(0).Type()
	}
	return c
}

// calledName is the last identifier of a function's name, without type arguments.
func calledName(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.SelectorExpr:
		return e.Sel
	case *ast.ParenExpr:
		return calledName(e.X)
	case *ast.IndexExpr:
		return calledName(e.X)
	}
	return nil
}
