package actor

import (
	"context"
	"errors"
	"fmt"
	"reflect"
)

// Method is one callable method of a class.
type Method struct {
	Name   string
	Arg    reflect.Type // nil if it takes none
	Result reflect.Type // nil if it returns none
	class  string
	index  int
	fn     reflect.Value // with the receiver as its first parameter; not valid if the class's type is an interface
	plain  plain         // the same without reflection, if its types are common ones
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
)

// newMethod looks at one exported method: nil and no error if it has no context.
func newMethod(class string, typ reflect.Type, rm reflect.Method) (*Method, error) {
	if !rm.IsExported() { // only an interface shows such
		return nil, nil
	}
	f := rm.Type
	first := 1 // the receiver
	if typ.Kind() == reflect.Interface {
		first = 0
	}
	if f.NumIn() <= first || f.In(first) != contextType {
		return nil, nil
	}
	bad := func(why string) (*Method, error) {
		return nil, fmt.Errorf("class %s: method %s %s: want func(ctx context.Context [, arg A]) ([R,] error); to keep it from callers, take no context",
			class, rm.Name, why)
	}
	m := &Method{Name: rm.Name, class: class, index: rm.Index, fn: rm.Func}
	switch n := f.NumIn() - first; {
	case f.IsVariadic():
		return bad("is variadic")
	case n > 2:
		return bad(fmt.Sprintf("takes %d arguments (make them one struct)", n-1))
	case n == 2:
		m.Arg = f.In(first + 1)
	}
	switch n := f.NumOut(); {
	case n == 0 || f.Out(n-1) != errorType:
		return bad("does not return an error last")
	case n > 2:
		return bad(fmt.Sprintf("returns %d values before the error", n-1))
	case n == 2:
		m.Result = f.Out(0)
	}
	if m.Arg != nil && !travels(m.Arg) {
		return bad(fmt.Sprintf("takes a %v, which cannot be sent", m.Arg))
	}
	if m.Result != nil && !travels(m.Result) {
		return bad(fmt.Sprintf("returns a %v, which cannot be sent", m.Result))
	}
	return m, nil
}

func travels(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return false
	}
	return true
}

// Arg is a decoded argument.
type Arg struct {
	v reflect.Value
	scalar
}

// Decode makes the method's argument of its encoded form, in which skim, if not nil, looks first for what a decoder must not see.
// The argument shares nothing with b. The error says that the method did not run.
func (m *Method) Decode(e Encoding, b []byte, skim func(Encoding, reflect.Type, []byte) error) (arg Arg, err *Error) {
	given := e != EncodingNone && len(b) > 0
	switch {
	case m.Arg == nil && given && !isNil(e, b):
		return arg, m.bad("takes no argument, but one was sent")
	case m.Arg == nil:
		return arg, nil
	case !given && m.Arg.Kind() == reflect.Interface: // nil has no type of its own, and is sent as nothing
		return Arg{v: reflect.Zero(m.Arg)}, nil
	case !given:
		return arg, m.bad(fmt.Sprintf("wants an argument of type %v, and none was sent", m.Arg))
	}
	if e == EncodingMsgpack && m.plain.arg != 0 && arg.read(m.plain.arg, b) {
		return arg, nil
	}
	// A type may decode itself, with code of the user's.
	defer func() {
		if r := recover(); r != nil {
			err = m.bad(fmt.Sprintf("cannot read its argument of type %v: panic: %v", m.Arg, r))
		}
	}()
	if skim != nil && (e == EncodingMsgpack || e == EncodingJSON) {
		if e := skim(e, m.Arg, b); e != nil {
			return arg, m.bad(fmt.Sprintf("cannot read its argument of type %v: %v", m.Arg, e))
		}
	}
	p := reflect.New(m.Arg)
	if e := decode(e, b, p.Interface()); e != nil {
		return arg, m.bad(fmt.Sprintf("cannot read its argument of type %v: %v", m.Arg, e))
	}
	return Arg{v: p.Elem()}, nil
}

func isNil(e Encoding, b []byte) bool {
	return e == EncodingMsgpack && len(b) == 1 && b[0] == 0xc0 || e == EncodingJSON && string(b) == "null"
}

func (m *Method) bad(why string) *Error {
	return &Error{Code: CodeBadArgument, Outcome: DidNotRun, Message: fmt.Sprintf("method %s of class %s %s", m.Name, m.class, why)}
}

// Call runs the method. err is what it returned, or that its result cannot be encoded. The result has the encoding of the call, msgpack
// if that had none, and EncodingNone if the method returns no value.
func (m *Method) Call(ctx context.Context, in Instance, arg Arg, e Encoding) (result []byte, _ Encoding, err error) {
	if m.plain.call != nil && (m.Arg == nil || arg.kind != 0) {
		return m.callPlain(ctx, in, arg.scalar, e)
	}
	return m.callAny(ctx, in, arg, e)
}

func (m *Method) callAny(ctx context.Context, in Instance, arg Arg, e Encoding) (result []byte, _ Encoding, err error) {
	args := append(make([]reflect.Value, 0, 3), in.v, reflect.ValueOf(&ctx).Elem())
	if m.Arg != nil {
		args = append(args, arg.v)
	}
	var out []reflect.Value
	if m.fn.IsValid() {
		out = m.fn.Call(args)
	} else {
		out = in.v.Method(m.index).Call(args[1:])
	}
	if v := out[len(out)-1]; !v.IsNil() {
		return nil, EncodingNone, v.Interface().(error)
	}
	if m.Result == nil {
		return nil, EncodingNone, nil
	}
	if e != EncodingJSON {
		e = EncodingMsgpack
	}
	b, err := encode(e, out[0].Interface())
	if err != nil {
		return nil, EncodingNone, m.unencodable(err)
	}
	return b, e, nil
}

// Returned makes of the error that a method or constructor returned the one that its caller gets: the object's code ran. An *Error within
// keeps code, application name and flags; anything else becomes an application error without a name.
func Returned(err error) *Error {
	out := &Error{Code: CodeApp}
	if e := (*Error)(nil); errors.As(err, &e) {
		*out = *e
	} else if errors.Is(err, context.DeadlineExceeded) {
		out.Code = CodeDeadline
	}
	if _, ok := err.(*Error); !ok {
		out.Message = err.Error() // what was wrapped around it is worth reading, and says the name and the object already
	} else if out.Message == "" {
		out.Message = out.text()
	}
	out.Outcome, out.Remote = Ran, true
	return out
}
