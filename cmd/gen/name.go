package gen

import (
	"fmt"
	"go/types"
)

// canName makes sure that the types of m can be written down where its stub is used.
func (p *pkg) canName(c *class, m *method) error {
	for _, part := range []struct {
		verb string
		typ  types.Type
	}{{"takes", m.arg}, {"returns", m.result}} {
		if part.typ == nil {
			continue
		}
		if why := p.unnamable(part.typ); why != "" {
			return fmt.Errorf("class %s: method %s %s a %s: %s; to keep the method from callers, take no context", c.name, m.name, part.verb, short(part.typ), why)
		}
	}
	return nil
}

// unnamable says why a type cannot be written in the stub, or by those who use it; empty if it can.
func (p *pkg) unnamable(t types.Type) string {
	switch t := t.(type) {
	case *types.Basic:
		if t.Kind() == types.Invalid {
			return "the type is not known" + p.because()
		}
	case *types.TypeParam:
		return fmt.Sprintf("%s is a type parameter: call actor.Define with the type's arguments filled in", t.Obj().Name())
	case *types.Named:
		return first(p.unnamableName(t.Obj()), p.unnamableArgs(t.TypeArgs()))
	case *types.Alias:
		return first(p.unnamableName(t.Obj()), p.unnamableArgs(t.TypeArgs()))
	case *types.Map:
		return first(p.unnamable(t.Key()), p.unnamable(t.Elem()))
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		return p.unnamable(t.Elem())
	case *types.Struct:
		for f := range t.Fields() {
			if why := p.unnamable(f.Type()); why != "" {
				return why
			}
		}
	case *types.Signature:
		return first(p.unnamable(t.Params()), p.unnamable(t.Results()))
	case *types.Tuple:
		for v := range t.Variables() {
			if why := p.unnamable(v.Type()); why != "" {
				return why
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			if why := p.unnamable(m.Signature()); why != "" {
				return why
			}
		}
	}
	return ""
}

func (p *pkg) unnamableName(obj *types.TypeName) string {
	switch {
	case obj.Pkg() == nil: // error, any, comparable
		return ""
	case obj.Parent() != obj.Pkg().Scope() && obj.Pkg() == p.types:
		return fmt.Sprintf("the type %s is declared within a function: declare it in the package", obj.Name())
	case !obj.Exported() && (obj.Pkg() != p.types || p.types.Name() != "main"): // nobody imports a program
		return fmt.Sprintf("other packages cannot name %s: export the type", obj.Name())
	}
	return ""
}

func (p *pkg) unnamableArgs(args *types.TypeList) string {
	for t := range args.Types() {
		if why := p.unnamable(t); why != "" {
			return why
		}
	}
	return ""
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
