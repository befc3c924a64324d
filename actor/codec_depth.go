package actor

import (
	"encoding"
	"fmt"
	"reflect"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// maxNesting is how deep lists, maps and structs may lie within each other: encoders and decoders recurse, and a value that leads back to itself
// would take the process with it.
const maxNesting = 100

// maxPointers bounds what leads from one of them to the next.
const maxPointers = 1000

// checkNesting returns an error if v is nested too deep to be encoded.
func checkNesting(v any) error {
	if anyTooDeep(v, 0, 0) {
		return fmt.Errorf("it is nested deeper than %d, or leads back to itself", maxNesting)
	}
	return nil
}

// anyTooDeep is tooDeep for what most often is in an any.
func anyTooDeep(v any, depth, pointers int) bool {
	if depth > maxNesting {
		return true
	}
	switch v := v.(type) {
	case nil, string, bool, int, int64, float64:
		return false
	case []any:
		for _, e := range v {
			if anyTooDeep(e, depth+1, pointers) {
				return true
			}
		}
		return false
	case map[string]any:
		for _, e := range v {
			if anyTooDeep(e, depth+1, pointers) {
				return true
			}
		}
		return false
	}
	return nests(reflect.TypeOf(v)) && tooDeep(reflect.ValueOf(v), depth, pointers)
}

func tooDeep(v reflect.Value, depth, pointers int) bool {
	if depth > maxNesting || pointers > maxPointers {
		return true
	}
	if !nests(v.Type()) {
		return false
	}
	switch v.Kind() {
	case reflect.Interface:
		return !v.IsNil() && anyTooDeep(v.Interface(), depth, pointers+1)
	case reflect.Pointer:
		return !v.IsNil() && tooDeep(v.Elem(), depth, pointers+1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if tooDeep(v.Index(i), depth+1, pointers) {
				return true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if tooDeep(it.Key(), depth+1, pointers) || tooDeep(it.Value(), depth+1, pointers) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if _, within, ok := fieldName(v.Type().Field(i)); (ok || within != nil) && tooDeep(v.Field(i), depth+1, pointers) {
				return true
			}
		}
	}
	return false
}

var nesting sync.Map // of reflect.Type to bool: the answers of nests

// nests reports whether there is no bound to how deep values of a type are: it has itself within, or an interface. Most have not, and need no look at
// their values.
func nests(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Int, reflect.Int64, reflect.String, reflect.Bool, reflect.Uint8, reflect.Float64:
		return false
	}
	if yes, ok := nesting.Load(t); ok {
		return yes.(bool)
	}
	yes := findNest(t, make(map[reflect.Type]bool))
	nesting.Store(t, yes)
	return yes
}

// findNest has on the way which types t lies within.
func findNest(t reflect.Type, on map[reflect.Type]bool) bool {
	switch {
	case on[t]:
		return true
	case implements(t, encoders):
		return false
	}
	on[t] = true
	defer delete(on, t)
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Map:
		return findNest(t.Key(), on) || findNest(t.Elem(), on)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return findNest(t.Elem(), on)
	case reflect.Struct:
		for i := range t.NumField() {
			if _, within, ok := fieldName(t.Field(i)); (ok || within != nil) && findNest(t.Field(i).Type, on) {
				return true
			}
		}
	}
	return false
}

var encoders = []reflect.Type{reflect.TypeFor[msgpack.CustomEncoder](), reflect.TypeFor[msgpack.Marshaler](), reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.TextMarshaler]()}
