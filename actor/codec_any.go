package actor

import (
	"math"
	"reflect"
	"sync"
)

// The decoder makes an int64 of small numbers in an any and a uint64 of larger ones, as their bytes begin: 127 and 128 would be of two types. Here every
// integer that fits becomes an int64.

// deepest is where signed ends: what is decoded is not so deep, but the caller's value may lead back to itself.
const deepest = 100

// signed makes all integers in the anys within v signed, if they fit.
func signed(v reflect.Value, depth int) {
	if depth > deepest || !holdsAny(v.Type()) {
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		if v.NumMethod() == 0 && !v.IsNil() && v.CanSet() {
			v.Set(reflect.ValueOf(signedAny(v.Interface(), depth)))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			signed(v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if visible(v.Type().Field(i)) {
				signed(v.Field(i), depth+1)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			signed(v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem() // a map's own cannot be set in place
			e.Set(it.Value())
			signed(e, depth+1)
			v.SetMapIndex(it.Key(), e)
		}
	}
}

// signedAny is signed for what the decoder makes where it is not told a type.
func signedAny(v any, depth int) any {
	if depth > deepest {
		return v
	}
	switch v := v.(type) {
	case uint64:
		if v <= math.MaxInt64 {
			return int64(v)
		}
	case []any:
		for i, e := range v {
			v[i] = signedAny(e, depth+1)
		}
	case map[string]any:
		for k, e := range v {
			v[k] = signedAny(e, depth+1)
		}
	}
	return v
}

var anys sync.Map // of reflect.Type to bool: the answers of holdsAny

// holdsAny reports whether values of a type can have an any within. Such types are few, and what calls carry is mostly of others.
func holdsAny(t reflect.Type) bool {
	switch t.Kind() { // of most calls and values; no need to remember
	case reflect.Int, reflect.Int64, reflect.String, reflect.Bool, reflect.Uint8, reflect.Float64:
		return false
	}
	if yes, ok := anys.Load(t); ok {
		return yes.(bool)
	}
	yes := findAny(t, make(map[reflect.Type]bool))
	anys.Store(t, yes)
	return yes
}

func findAny(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Interface:
		return t.NumMethod() == 0
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return findAny(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); visible(f) && findAny(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// visible reports whether the decoder may set a field, or fields within it.
func visible(f reflect.StructField) bool {
	return f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct
}
