package actor

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// The decoder cuts an integer down to the bits of the variable: 300 becomes the int8 44, -1 the largest uint64. Here such bytes are found first.

// limits says which integers a type takes, and where within it. A nil one takes all, or none that the decoder would cut.
type limits struct {
	typ    reflect.Type
	min    int64 // of an integer; max 0: it is none
	max    uint64
	elem   *limits // of a list or the values of a map
	key    *limits
	fields map[string]*limits
	wide   bool // of a whole: the only integer that would not fit is one above int64
}

var limitsByType sync.Map // of reflect.Type to *limits

// checkIntegers returns an error if b has an integer that does not fit where the decoder would put it in a value of type t. Bytes that are not msgpack,
// or of another shape than t, are the decoder's to refuse.
func checkIntegers(t reflect.Type, b []byte) error {
	var l *limits
	if known, ok := limitsByType.Load(t); ok {
		l = known.(*limits)
	} else {
		l = findLimits(t)
		limitsByType.Store(t, l)
	}
	if l == nil || l.wide && !hasUint64(b) {
		return nil
	}
	_, err := l.check(b, 0)
	if err == errElse {
		return nil
	}
	return err
}

// hasUint64 reports whether b may hold an integer above int64.
func hasUint64(b []byte) bool {
	for i, c := range b {
		if c == 0xcf && i+1 < len(b) && b[i+1] >= 0x80 {
			return true
		}
	}
	return false
}

// errElse: the rest of the bytes is not for limits to judge.
var errElse = errors.New("not checked")

// check looks at the first value in b and returns what comes after it.
func (l *limits) check(b []byte, depth int) (rest []byte, err error) {
	items, size, err := head(b)
	if err != nil || size > uint64(len(b)) || depth > maxNesting {
		return nil, errElse
	}
	code, rest := b[0], b[size:]
	list := code >= 0x90 && code < 0xa0 || code == 0xdc || code == 0xdd
	pairs := code >= 0x80 && code < 0x90 || code == 0xde || code == 0xdf
	switch {
	case l != nil && l.max > 0 && items == 0:
		return rest, l.fits(code, b[1:size])
	case l != nil && l.elem != nil && list:
		for ; items > 0 && err == nil; items-- {
			rest, err = l.elem.check(rest, depth+1)
		}
	case l != nil && (l.key != nil || l.elem != nil) && pairs:
		for ; items > 0 && err == nil; items -= 2 {
			if rest, err = l.key.check(rest, depth+1); err == nil {
				rest, err = l.elem.check(rest, depth+1)
			}
		}
	case l != nil && l.fields != nil && pairs:
		for ; items > 0 && err == nil; items -= 2 {
			var name []byte
			if name, rest, err = readString(rest); err == nil {
				if rest, err = l.fields[string(name)].check(rest, depth+1); err != nil && err != errElse {
					err = fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	default:
		for ; items > 0 && err == nil; items-- {
			rest, err = (*limits)(nil).check(rest, depth+1)
		}
	}
	return rest, err
}

func readString(b []byte) (s, rest []byte, err error) {
	items, size, err := head(b)
	if err != nil || items > 0 || size > uint64(len(b)) {
		return nil, nil, errElse
	}
	skip := 1
	switch c := b[0]; {
	case c >= 0xa0 && c < 0xc0:
	case c == 0xd9, c == 0xc4:
		skip = 2
	case c == 0xda, c == 0xc5:
		skip = 3
	case c == 0xdb, c == 0xc6:
		skip = 5
	default:
		return nil, nil, errElse
	}
	return b[skip:size], b[size:], nil
}

// fits looks at one integer: its code and the bytes after that.
func (l *limits) fits(code byte, b []byte) error {
	var wide [8]byte
	copy(wide[8-min(8, len(b)):], b)
	u, width := binary.BigEndian.Uint64(wide[:]), uint(8*len(b))
	switch {
	case code < 0x80:
		u = uint64(code)
	case code >= 0xcc && code <= 0xcf:
	case code >= 0xe0, code >= 0xd0 && code <= 0xd3:
		n := int64(int8(code))
		if code <= 0xd3 {
			n = int64(u<<(64-width)) >> (64 - width)
		}
		if n < l.min {
			return fmt.Errorf("%d does not fit a variable of type %v", n, l.typ)
		}
		if n < 0 {
			return nil
		}
		u = uint64(n)
	default:
		return nil // no integer
	}
	if u > l.max {
		return fmt.Errorf("%d does not fit a variable of type %v", u, l.typ)
	}
	return nil
}

// findLimits looks at a type.
func findLimits(t reflect.Type) *limits {
	f := limitFinder{seen: make(map[reflect.Type]*limits)}
	l := f.find(t)
	if !f.narrow && !f.wide {
		return nil
	}
	if !f.narrow {
		whole := *l
		whole.wide = true
		l = &whole
	}
	return l
}

type limitFinder struct {
	seen         map[reflect.Type]*limits
	narrow, wide bool // there is an integer that is narrower than an int64, or unsigned; one that is not
}

func (f *limitFinder) find(t reflect.Type) *limits {
	if decodesItself(t) {
		return nil
	}
	switch k := t.Kind(); k {
	case reflect.Pointer:
		if l, ok := f.seen[t]; ok { // a type of pointers to itself has no values
			return l
		}
		f.seen[t] = nil
		f.seen[t] = f.find(t.Elem())
		return f.seen[t]
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if t.Bits() == 64 {
			f.wide = true
		} else {
			f.narrow = true
		}
		return &limits{typ: t, min: math.MinInt64 >> (64 - t.Bits()), max: math.MaxInt64 >> (64 - t.Bits())}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		f.narrow = true
		return &limits{typ: t, max: math.MaxUint64 >> (64 - t.Bits())}
	case reflect.Slice, reflect.Array, reflect.Map, reflect.Struct:
		if l, ok := f.seen[t]; ok {
			return l
		}
		l := &limits{typ: t}
		f.seen[t] = l
		switch {
		case k == reflect.Struct:
			l.fields = make(map[string]*limits)
			f.addFields(l.fields, t)
		case k == reflect.Map:
			l.key, l.elem = f.find(t.Key()), f.find(t.Elem())
		case t.Elem().Kind() != reflect.Uint8: // bytes are no integers
			l.elem = f.find(t.Elem())
		}
		return l
	}
	return nil
}

func (f *limitFinder) addFields(to map[string]*limits, t reflect.Type) {
	var embedded []reflect.Type
	for i := range t.NumField() {
		name, within, ok := fieldName(t.Field(i))
		switch {
		case within != nil:
			embedded = append(embedded, within)
		case ok:
			to[name] = f.find(t.Field(i).Type)
		}
	}
	for _, e := range embedded { // what the struct itself names hides theirs
		within := make(map[string]*limits)
		if l, again := f.seen[e]; again && l != nil {
			within = l.fields
		} else {
			f.seen[e] = &limits{typ: e, fields: within}
			f.addFields(within, e)
		}
		for name, l := range within {
			if _, ok := to[name]; !ok {
				to[name] = l
			}
		}
	}
}

// fieldName is under which name a field is encoded; ok is false if it is not. within is its type if its fields are encoded in its place.
func fieldName(f reflect.StructField) (name string, within reflect.Type, ok bool) {
	tag := f.Tag.Get("msgpack")
	if tag == "" {
		tag = f.Tag.Get("json")
	}
	name, opts, _ := strings.Cut(tag, ",")
	if name == "-" || !visible(f) {
		return "", nil, false
	}
	if f.Anonymous && name == "" && opts != "noinline" || opts == "inline" {
		e := f.Type
		if e.Kind() == reflect.Pointer {
			e = e.Elem()
		}
		if e.Kind() == reflect.Struct && !decodesItself(e) {
			return "", e, false
		}
	}
	if name == "" {
		name = f.Name
	}
	return name, nil, true
}

var decoders = []reflect.Type{reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()}

// decodesItself: the type's own code reads its bytes.
func decodesItself(t reflect.Type) bool { return implements(t, decoders) }

func implements(t reflect.Type, any []reflect.Type) bool {
	for _, i := range any {
		if t.Implements(i) || t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}
