package actor

import (
	"context"
	"fmt"
	"reflect"
)

// Method is one callable method of a class.
type Method struct {
	Name   string
	class  string
	index  int
	arg    reflect.Type // nil if it takes none
	result bool
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
)

// newMethod looks at one exported method: nil and no error if it has no context.
func newMethod(class string, typ reflect.Type, rm reflect.Method) (*Method, error) {
	f := rm.Type
	first := 1 // the receiver
	if typ.Kind() == reflect.Interface {
		first = 0
	}
	if f.NumIn() <= first || f.In(first) != contextType {
		return nil, nil
	}
	if rm.Name == "Alarm" {
		return nil, fmt.Errorf("class %s: the method name Alarm is reserved: rename it", class)
	}
	bad := func(why string) (*Method, error) {
		return nil, fmt.Errorf("class %s: method %s %s: want func(ctx context.Context [, arg A]) ([R,] error); to keep it from callers, take no context",
			class, rm.Name, why)
	}
	m := &Method{Name: rm.Name, class: class, index: rm.Index}
	switch n := f.NumIn() - first; {
	case f.IsVariadic():
		return bad("is variadic")
	case n > 2:
		return bad(fmt.Sprintf("takes %d arguments (make them one struct)", n-1))
	case n == 2:
		m.arg = f.In(first + 1)
	}
	switch n := f.NumOut(); {
	case n == 0 || f.Out(n-1) != errorType:
		return bad("does not return an error last")
	case n > 2:
		return bad(fmt.Sprintf("returns %d values before the error", n-1))
	case n == 2:
		m.result = true
	}
	if m.arg != nil && !travels(m.arg) {
		return bad(fmt.Sprintf("takes a %v, which cannot be sent", m.arg))
	}
	if m.result && !travels(f.Out(0)) {
		return bad(fmt.Sprintf("returns a %v, which cannot be sent", f.Out(0)))
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
type Arg struct{ v reflect.Value }

// Decode makes the method's argument of its encoded form. The argument shares nothing with b.
func (m *Method) Decode(e Encoding, b []byte) (arg Arg, err *Error) {
	given := e != EncodingNone && len(b) > 0
	switch {
	case m.arg == nil && given && !isNil(e, b):
		return arg, m.bad("takes no argument, but one was sent")
	case m.arg == nil:
		return arg, nil
	case !given:
		return arg, m.bad(fmt.Sprintf("wants an argument of type %v, and none was sent", m.arg))
	}
	// A type may decode itself, with code of the user's.
	defer func() {
		if r := recover(); r != nil {
			err = m.bad(fmt.Sprintf("cannot read its argument of type %v: panic: %v", m.arg, r))
		}
	}()
	p := reflect.New(m.arg)
	if e := decode(e, b, p.Interface()); e != nil {
		return arg, m.bad(fmt.Sprintf("cannot read its argument of type %v: %v", m.arg, e))
	}
	return Arg{p.Elem()}, nil
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
	args := [2]reflect.Value{reflect.ValueOf(&ctx).Elem()}
	n := 1
	if m.arg != nil {
		args[1] = arg.v
		n = 2
	}
	out := in.v.Method(m.index).Call(args[:n])
	if v := out[len(out)-1]; !v.IsNil() {
		return nil, EncodingNone, v.Interface().(error)
	}
	if !m.result {
		return nil, EncodingNone, nil
	}
	if e != EncodingJSON {
		e = EncodingMsgpack
	}
	b, err := encode(e, out[0].Interface())
	if err != nil {
		return nil, EncodingNone, &Error{Code: CodeInternal, Outcome: Ran, Remote: true,
			Message: fmt.Sprintf("method %s of class %s returned a %v that cannot be encoded: %v", m.Name, m.class, out[0].Type(), err)}
	}
	return b, e, nil
}
