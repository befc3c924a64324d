package actor

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
)

// Most methods take, and return, nothing, a number, a string or bytes. They are called without reflection, and their arguments and results
// need no encoder. What this file does is held equal to the general way by tests.

// scalar is a value of a common type, on its way into a method or out of one.
type scalar struct {
	kind scalarKind
	t    bool
	n    int64
	s    string
	b    []byte
}

type scalarKind uint8

const (
	scalarInt scalarKind = iota + 1
	scalarString
	scalarBytes
	scalarBool
)

// plain is a method of common types: what it takes (0: nothing), and a call of it; nil if its types are others.
type plain struct {
	arg  scalarKind
	call func(ctx context.Context, in any, arg scalar) (scalar, error)
}

// plainOf looks at a method, a function with its receiver, a T, as the first parameter.
func plainOf[T any](fn reflect.Value) plain {
	if !fn.IsValid() || reflect.TypeFor[T]().Kind() != reflect.Pointer { // a pointer is in an any without a piece of memory of its own
		return plain{}
	}
	switch f := fn.Interface().(type) {
	case func(T, context.Context) error:
		return plain{0, func(ctx context.Context, in any, _ scalar) (scalar, error) { return scalar{}, f(in.(T), ctx) }}
	case func(T, context.Context) (int64, error):
		return plain{0, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx)
			return scalar{kind: scalarInt, n: v}, err
		}}
	case func(T, context.Context) (string, error):
		return plain{0, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx)
			return scalar{kind: scalarString, s: v}, err
		}}
	case func(T, context.Context) ([]byte, error):
		return plain{0, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx)
			return scalar{kind: scalarBytes, b: v}, err
		}}
	case func(T, context.Context) (bool, error):
		return plain{0, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx)
			return scalar{kind: scalarBool, t: v}, err
		}}
	case func(T, context.Context, int64) error:
		return plain{scalarInt, func(ctx context.Context, in any, a scalar) (scalar, error) { return scalar{}, f(in.(T), ctx, a.n) }}
	case func(T, context.Context, int64) (int64, error):
		return plain{scalarInt, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.n)
			return scalar{kind: scalarInt, n: v}, err
		}}
	case func(T, context.Context, int64) (string, error):
		return plain{scalarInt, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.n)
			return scalar{kind: scalarString, s: v}, err
		}}
	case func(T, context.Context, int64) ([]byte, error):
		return plain{scalarInt, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.n)
			return scalar{kind: scalarBytes, b: v}, err
		}}
	case func(T, context.Context, int64) (bool, error):
		return plain{scalarInt, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.n)
			return scalar{kind: scalarBool, t: v}, err
		}}
	case func(T, context.Context, string) error:
		return plain{scalarString, func(ctx context.Context, in any, a scalar) (scalar, error) { return scalar{}, f(in.(T), ctx, a.s) }}
	case func(T, context.Context, string) (int64, error):
		return plain{scalarString, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.s)
			return scalar{kind: scalarInt, n: v}, err
		}}
	case func(T, context.Context, string) (string, error):
		return plain{scalarString, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.s)
			return scalar{kind: scalarString, s: v}, err
		}}
	case func(T, context.Context, string) ([]byte, error):
		return plain{scalarString, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.s)
			return scalar{kind: scalarBytes, b: v}, err
		}}
	case func(T, context.Context, string) (bool, error):
		return plain{scalarString, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.s)
			return scalar{kind: scalarBool, t: v}, err
		}}
	case func(T, context.Context, []byte) error:
		return plain{scalarBytes, func(ctx context.Context, in any, a scalar) (scalar, error) { return scalar{}, f(in.(T), ctx, a.b) }}
	case func(T, context.Context, []byte) (int64, error):
		return plain{scalarBytes, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.b)
			return scalar{kind: scalarInt, n: v}, err
		}}
	case func(T, context.Context, []byte) (string, error):
		return plain{scalarBytes, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.b)
			return scalar{kind: scalarString, s: v}, err
		}}
	case func(T, context.Context, []byte) ([]byte, error):
		return plain{scalarBytes, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.b)
			return scalar{kind: scalarBytes, b: v}, err
		}}
	case func(T, context.Context, []byte) (bool, error):
		return plain{scalarBytes, func(ctx context.Context, in any, a scalar) (scalar, error) {
			v, err := f(in.(T), ctx, a.b)
			return scalar{kind: scalarBool, t: v}, err
		}}
	}
	return plain{}
}

// callPlain is Call.
func (m *Method) callPlain(ctx context.Context, in Instance, arg scalar, e Encoding) ([]byte, Encoding, error) {
	r, err := m.plain.call(ctx, in.v.Interface(), arg)
	if err != nil {
		return nil, EncodingNone, err
	}
	switch {
	case r.kind == 0:
		return nil, EncodingNone, nil
	case e != EncodingJSON:
		return r.appendTo(nil), EncodingMsgpack, nil
	}
	b, err := encode(e, r.value())
	if err != nil {
		return nil, EncodingNone, m.unencodable(err)
	}
	return b, e, nil
}

func (m *Method) unencodable(err error) *Error {
	return &Error{Code: CodeInternal, Outcome: Ran, Remote: true,
		Message: fmt.Sprintf("method %s of class %s returned a %v that cannot be encoded: %v", m.Name, m.class, m.Result, err)}
}

func (v *scalar) value() any {
	switch v.kind {
	case scalarInt:
		return v.n
	case scalarString:
		return v.s
	case scalarBytes:
		return v.b
	}
	return v.t
}

// scalarOf reports whether a value is of a common type.
func scalarOf(v any) (s scalar, ok bool) {
	switch v := v.(type) {
	case int64:
		return scalar{kind: scalarInt, n: v}, true
	case int:
		return scalar{kind: scalarInt, n: int64(v)}, true
	case string:
		return scalar{kind: scalarString, s: v}, true
	case []byte:
		return scalar{kind: scalarBytes, b: v}, true
	case bool:
		return scalar{kind: scalarBool, t: v}, true
	}
	return scalar{}, false
}

// appendTo appends what the encoder writes for the value.
func (v *scalar) appendTo(b []byte) []byte {
	switch v.kind {
	case scalarInt:
		return appendInt(b, v.n)
	case scalarBool:
		if v.t {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case scalarString:
		if b == nil {
			b = make([]byte, 0, len(v.s)+5)
		}
		if len(v.s) < 32 {
			return append(append(b, 0xa0|byte(len(v.s))), v.s...)
		}
		return append(appendLength(b, 0xd9, len(v.s)), v.s...)
	}
	if v.b == nil {
		return append(b, 0xc0)
	}
	if b == nil {
		b = make([]byte, 0, len(v.b)+5)
	}
	return append(appendLength(b, 0xc4, len(v.b)), v.b...)
}

// appendLength appends the length of a string or of bytes; code is that of one byte of length, and those of two and four follow it.
func appendLength(b []byte, code byte, n int) []byte {
	switch {
	case n < 1<<8:
		return append(b, code, byte(n))
	case n < 1<<16:
		return append(b, code+1, byte(n>>8), byte(n))
	}
	return append(b, code+2, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// read reads b if it is nothing but a value of the kind, as appendTo writes it; all else is left to the decoder.
func (v *scalar) read(k scalarKind, b []byte) (ok bool) {
	switch k {
	case scalarInt:
		v.n, ok = readInt(b)
	case scalarString:
		var raw []byte
		if raw, ok = readBlob(b, 0xd9); ok {
			v.s = string(raw)
		}
	case scalarBytes:
		var raw []byte
		if raw, ok = readBlob(b, 0xc4); ok {
			v.b = append(make([]byte, 0, len(raw)), raw...)
		}
	}
	if ok {
		v.kind = k
	}
	return ok
}

// readBlob is the string (code 0xd9), or the bytes (0xc4), that are all of b.
func readBlob(b []byte, code byte) ([]byte, bool) {
	if len(b) == 0 {
		return nil, false
	}
	head, n := 0, uint64(0)
	switch c := b[0]; {
	case code == 0xd9 && c&0xe0 == 0xa0:
		head, n = 1, uint64(c&0x1f)
	case c == code && len(b) >= 2:
		head, n = 2, uint64(b[1])
	case c == code+1 && len(b) >= 3:
		head, n = 3, uint64(binary.BigEndian.Uint16(b[1:]))
	case c == code+2 && len(b) >= 5:
		head, n = 5, uint64(binary.BigEndian.Uint32(b[1:]))
	default:
		return nil, false
	}
	return b[head:], uint64(len(b)-head) == n
}

// readInto reads b into a pointer to a value of a common type; all else is left to the decoder.
func readInto(b []byte, into any) (ok bool) {
	switch p := into.(type) {
	case *int64:
		if n, ok := readInt(b); ok && p != nil {
			*p = n
			return true
		}
	case *int:
		if n, ok := readInt(b); ok && p != nil && int64(int(n)) == n {
			*p = int(n)
			return true
		}
	case *bool:
		if len(b) == 1 && b[0]&^1 == 0xc2 && p != nil {
			*p = b[0] == 0xc3
			return true
		}
	case *string:
		if raw, ok := readBlob(b, 0xd9); ok && p != nil {
			*p = string(raw)
			return true
		}
	case *[]byte:
		if raw, ok := readBlob(b, 0xc4); ok && p != nil {
			if *p == nil {
				*p = make([]byte, 0, len(raw))
			}
			*p = append((*p)[:0], raw...)
			return true
		}
	}
	return false
}
