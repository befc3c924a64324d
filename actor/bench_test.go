package actor

import (
	"context"
	"testing"
)

type tally struct{ n int64 }

func (c *tally) Add(_ context.Context, by int64) (int64, error) { c.n += by; return c.n, nil }

// BenchmarkCall is what the call of a method costs beside the method: decode, reflection, encode.
func BenchmarkCall(b *testing.B) {
	c := Define("Tally", func(context.Context, *State) (*tally, error) { return &tally{}, nil })
	in, err := c.New(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	m, _ := c.Method("Add")
	raw, _ := Marshal(int64(1))
	ctx := b.Context()
	for b.Loop() {
		arg, bad := m.Decode(EncodingMsgpack, raw, nil)
		if bad != nil {
			b.Fatal(bad)
		}
		if _, _, err := m.Call(ctx, in, arg, EncodingMsgpack); err != nil {
			b.Fatal(err)
		}
	}
}
