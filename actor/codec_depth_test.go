package actor

import (
	"errors"
	"strings"
	"testing"
)

type chained struct {
	V    int
	Next *chained `msgpack:",omitempty"`
}

func chainOf(n int) *chained {
	var c *chained
	for i := range n {
		c = &chained{i, c}
	}
	return c
}

// tree has a way back that is not encoded.
type tree struct {
	Parent *tree `json:"-"`
	Kids   []*tree
}

// own has an encoding of its own, whatever it holds.
type own struct{ Self *own }

func (o *own) MarshalText() ([]byte, error) { return []byte("own"), nil }

type panics struct{}

func (panics) MarshalText() ([]byte, error) { panic("broken") }
func (*panics) UnmarshalText([]byte) error  { panic("broken") }

// What leads back to itself would end the process in the encoder, which recurses.
func TestNothingLeadsBackToItself(t *testing.T) {
	ring := chainOf(3)
	ring.Next.Next.Next = ring
	list := []any{1, nil}
	list[1] = list
	m := map[string]any{}
	m["m"] = map[string]any{"x": m}
	var p any
	p = &p
	up := &tree{}
	up.Kids = []*tree{{}, {Parent: up}, up}
	deep := any(1)
	for range maxNesting + 1 {
		deep = []any{deep}
	}
	for what, v := range map[string]any{"ring": ring, "a struct with one": struct{ C *chained }{ring}, "list": list, "map": m, "pointer": p, "tree": up,
		"deep": deep, "deep list of structs": chainOf(maxNesting + 2)} {
		if _, err := Marshal(v); err == nil || !strings.Contains(err.Error(), "nested deeper than 100, or leads back to itself") {
			t.Errorf("%s: %v", what, err)
		}
	}
	down := &tree{}
	down.Kids = []*tree{{Parent: down}, {Parent: down, Kids: []*tree{{}}}}
	self := &own{}
	self.Self = self
	twice := chainOf(2)
	for what, v := range map[string]any{"chain": chainOf(maxNesting), "tree": down, "own encoder": self, "the same twice": []any{twice, twice}, "in an any": deep.([]any)[0]} {
		b, err := Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := wellFormed(b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A panic of a type's own code is an error, and leaves nothing behind for those who encode next.
func TestCodecsThatPanic(t *testing.T) {
	for range 10 {
		if _, err := Marshal([]any{1, panics{}}); err == nil || !strings.Contains(err.Error(), "panicked: broken") {
			t.Errorf("encoding: %v", err)
		}
		if err := Unmarshal([]byte{0xa1, 'x'}, new(panics)); err == nil || !strings.Contains(err.Error(), "panicked: broken") {
			t.Errorf("decoding: %v", err)
		}
		b, err := Marshal("x")
		var s string
		if err := errors.Join(err, Unmarshal(b, &s)); err != nil || s != "x" {
			t.Error(s, err)
		}
	}
}

func BenchmarkMarshalAny(b *testing.B) {
	v := map[string]any{"a": []any{1, 2, 3}, "b": "text", "c": map[string]any{"d": 1.5}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}
