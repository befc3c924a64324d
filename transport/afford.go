package transport

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// A byte may stand for much: 4 MiB of nils in a list of structs of 350 bytes become 1.4 GiB, because a decoder makes the list before it looks at what is in it.
// So what a value would take is reckoned from its bytes and its type before it is decoded, and refused above a budget of affordBase and affordPerByte
// for each byte. What callers send stays far below: a row of a table takes its fields' names and values, say 20 bytes, and a struct of 300; up to
// some 10,000 rows may be as sparse as they like.
const (
	affordBase    = 4 << 20
	affordPerByte = 32

	// What an any takes: the value itself with its box, an entry of a map, a map.
	anySize, anyEntry, anyMap = 32, 64, 320
)

// SkimFor is Skim for bytes that are going to be decoded into a value of type t. isJSON tells JSON from msgpack; of JSON nothing is checked but what it would take.
func SkimFor(t reflect.Type, isJSON bool, b []byte) error { return skimFor(t, isJSON, b, affordBase) }

// SkimWithin is SkimFor for the wire's own msgpack, with a smaller budget beside that for each byte.
func SkimWithin(t reflect.Type, b []byte, base uint64) error { return skimFor(t, false, b, base) }

func skimFor(t reflect.Type, isJSON bool, b []byte, base uint64) error {
	if !isJSON {
		if err := Skim(b); err != nil {
			return err
		}
	}
	p := planOf(t)
	if p == nil || p.most*uint64(len(b)) <= base { // as a rule
		return nil
	}
	budget := base + affordPerByte*uint64(len(b))
	r := reckoner{budget: budget}
	if isJSON {
		r.json(p, b, 0)
	} else {
		r.msgpack(p, b)
	}
	if r.cost > budget {
		return fmt.Errorf("transport: %d bytes would take more than %d as a %v: send fewer items at once, or []byte", len(b), budget, t)
	}
	return nil
}

// plan says what values of a type cost, beyond the place that they are decoded into. A nil one is of a type that costs no more than its bytes.
type plan struct {
	kind   reflect.Kind
	size   uint64           // of an element, of an entry, of what a pointer points to
	elem   *plan            // of a list, a map or a pointer
	key    *plan            // of a map
	fields map[string]*plan // of a struct, by lower-case name under any of its tags
	list   []*plan          // the same, in order
	most   uint64           // of the root: no byte costs more
}

var plans sync.Map // reflect.Type → *plan

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	f := planner{seen: map[reflect.Type]*plan{}}
	p := f.find(t)
	if p != nil {
		root := *p
		root.most = f.most
		p = &root
	}
	plans.Store(t, p)
	return p
}

type planner struct {
	seen map[reflect.Type]*plan
	most uint64
}

var ownDecoders = []reflect.Type{reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](),
	reflect.TypeFor[encoding.TextUnmarshaler]()}

func (f *planner) find(t reflect.Type) *plan {
	if p, ok := f.seen[t]; ok {
		return p
	}
	for _, i := range ownDecoders {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			return nil // the type's own code sees to it
		}
	}
	p := &plan{kind: t.Kind()}
	switch t.Kind() {
	case reflect.Interface:
		p.size = anySize
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return nil
		}
		p.size = 2 * uint64(t.Elem().Size()) // made, and then appended
	case reflect.Array:
	case reflect.Map:
		p.size = 2*uint64(t.Key().Size()+t.Elem().Size()) + 16
	case reflect.Pointer:
		p.size = uint64(t.Elem().Size())
	case reflect.Struct:
		p.fields = make(map[string]*plan)
	default:
		return nil
	}
	f.seen[t] = p
	f.most += p.size + anyMap + anyEntry
	switch t.Kind() {
	case reflect.Map:
		p.key, p.elem = f.find(t.Key()), f.find(t.Elem())
	case reflect.Struct:
		f.fields(p, t)
	case reflect.Interface:
		p.elem, p.key = p, p
	default:
		p.elem = f.find(t.Elem())
	}
	return p
}

func (f *planner) fields(p *plan, t reflect.Type) {
	for i := range t.NumField() {
		s := t.Field(i)
		within := f.find(s.Type)
		p.list = append(p.list, within)
		names := []string{s.Name}
		for _, tag := range []string{"msgpack", "json"} {
			if n, _, _ := strings.Cut(s.Tag.Get(tag), ","); n != "" {
				names = append(names, n)
			}
		}
		for _, n := range names {
			p.fields[strings.ToLower(n)] = within
		}
		in := within
		for in != nil && in.kind == reflect.Pointer {
			in = in.elem
		}
		if in != nil && in.kind == reflect.Struct { // its fields may stand in its place
			for n, w := range in.fields {
				if _, own := p.fields[n]; !own {
					p.fields[n] = w
				}
			}
		}
	}
}

// child is the plan of item i of a list, or of value i of a map's.
func (p *plan) child(i uint64) *plan {
	switch {
	case p == nil:
		return nil
	case p.kind == reflect.Struct && i < uint64(len(p.list)):
		return p.list[i]
	}
	return p.elem
}

// reckoner adds up what a value would take.
type reckoner struct{ cost, budget uint64 }

func (r *reckoner) add(n, each uint64) {
	if each > 0 && n > (math.MaxUint64-r.cost)/each {
		r.cost = math.MaxUint64
		return
	}
	r.cost += n * each
}

// through follows pointers, each of which makes what it points to.
func (r *reckoner) through(p *plan) *plan {
	for range MaxDepth {
		if p == nil || p.kind != reflect.Pointer {
			return p
		}
		r.add(1, p.size)
		p = p.elem
	}
	return nil // a type of pointers to itself has no values
}

// open adds what a map takes by itself, and entries what n entries of a list or a map take.
func (r *reckoner) open(p *plan, isMap bool) {
	if isMap && p != nil && (p.kind == reflect.Interface || p.kind == reflect.Map) {
		r.add(1, anyMap)
	}
}

func (r *reckoner) entries(p *plan, n uint64, isMap bool) {
	switch {
	case p == nil:
	case p.kind == reflect.Interface && isMap:
		r.add(n, anyEntry)
	case p.kind == reflect.Map && isMap, p.kind == reflect.Slice && !isMap, p.kind == reflect.Interface:
		r.add(n, p.size)
	}
}

// msgpack reckons the value at the beginning of b, which is skimmed, and returns what comes after it.
func (r *reckoner) msgpack(p *plan, b []byte) []byte {
	items, skip, isMap, err := skimHead(b, false)
	if err != nil || skip > uint64(len(b)) {
		return nil
	}
	if b[0] == 0xc0 {
		return b[1:]
	}
	p = r.through(p)
	b = b[skip:]
	n := items
	if isMap {
		n /= 2
	}
	r.open(p, isMap)
	r.entries(p, n, isMap)
	for i := uint64(0); i < n && len(b) > 0 && r.cost <= r.budget; i++ {
		child := p.child(i)
		if isMap {
			name := b
			b = r.msgpack(p.keys(), b)
			if p != nil && p.kind == reflect.Struct {
				child = p.fields[lowerName(name[:len(name)-len(b)])]
			}
		}
		b = r.msgpack(child, b)
	}
	return b
}

func (p *plan) keys() *plan {
	if p == nil {
		return nil
	}
	return p.key
}

// lowerName is the text of a key, in whatever form it is encoded.
func lowerName(b []byte) string {
	head := 1
	switch {
	case len(b) == 0:
		return ""
	case b[0] == 0xd9 || b[0] == 0xc4:
		head = 2
	case b[0] == 0xda || b[0] == 0xc5:
		head = 3
	case b[0] == 0xdb || b[0] == 0xc6:
		head = 5
	}
	return strings.ToLower(string(b[min(head, len(b)):]))
}

// json reckons the value at the beginning of b and returns what comes after it. Of bytes that are no JSON it makes something; the decoder refuses them.
func (r *reckoner) json(p *plan, b []byte, depth int) []byte {
	const deepest = 10_000 // the decoder goes no deeper
	b = jsonSpace(b)
	if len(b) == 0 || depth > deepest || r.cost > r.budget {
		return nil
	}
	switch c := b[0]; c {
	case '"':
		_, rest := jsonString(b)
		return rest
	case '[', '{':
		return r.jsonItems(r.through(p), b[1:], c == '{', depth+1)
	}
	for len(b) > 0 && strings.IndexByte(",:]}[{\"", b[0]) < 0 {
		b = b[1:]
	}
	return b
}

func (r *reckoner) jsonItems(p *plan, b []byte, isMap bool, depth int) []byte {
	r.open(p, isMap)
	for i := uint64(0); r.cost <= r.budget; i++ {
		b = jsonSpace(b)
		if len(b) == 0 {
			return nil
		}
		switch b[0] {
		case ']', '}':
			return b[1:]
		case ',', ':':
			b = b[1:]
			i--
			continue
		}
		left := len(b)
		child := p.child(i)
		if isMap {
			var name string
			if name, b = jsonString(b); p != nil && p.kind == reflect.Struct {
				child = p.fields[strings.ToLower(name)]
			}
			if b = jsonSpace(b); len(b) > 0 && b[0] == ':' {
				b = b[1:]
			}
		}
		r.entries(p, 1, isMap)
		if b = r.json(child, b, depth); len(b) >= left {
			return nil // no JSON
		}
	}
	return nil
}

func jsonSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\t' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// jsonString reads a string; its escapes are left as they are.
func jsonString(b []byte) (s string, rest []byte) {
	if len(b) == 0 || b[0] != '"' {
		return "", b
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return string(b[1:i]), b[i+1:]
		}
	}
	return "", nil
}
