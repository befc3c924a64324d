package actor

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

func rawSamples(t testing.TB) (out [][]byte) {
	long := strings.Repeat("x", 70_000)
	many := make([]any, 70_000)
	for _, v := range []any{nil, true, -1, 5, 200, 1 << 20, 1 << 40, -1 << 40, uint64(1) << 63, 1.5, float32(2), "", "short", long[:100], long[:300], long,
		[]byte("b"), []byte(long[:300]), []byte(long), []int{}, []any{1, "a", nil}, many[:100], many, map[string]any{"a": []any{1}}, time.Unix(5, 6),
		time.Unix(1<<40, 6), pair{1, []byte("x")}} {
		b, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestRaw(t *testing.T) {
	for _, b := range rawSamples(t) {
		got, err := Marshal(Raw(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%.20x became %.20x, %v", b, got, err)
		}
		var back Raw
		if err := Unmarshal(b, &back); err != nil || !bytes.Equal(back, b) && (len(back) > 0 || string(b) != "\xc0") {
			t.Errorf("%.20x was read as %.20x, %v", b, back, err)
		}
		for _, bad := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0)} {
			if len(bad) == 0 {
				continue
			}
			if _, err := Marshal(Raw(bad)); err == nil {
				t.Errorf("%.20x was accepted", bad)
			}
		}
	}
	inside, err := Marshal(struct{ A, B Raw }{Raw{5}, nil})
	if want, _ := Marshal(struct{ A, B any }{5, nil}); err != nil || !bytes.Equal(inside, want) {
		t.Errorf("%x, %v", inside, err)
	}
	deep := append(bytes.Repeat([]byte{0x91}, maxNesting), 1)
	if err := wellFormed(deep); err != nil {
		t.Error(err)
	}
	if err := wellFormed(append([]byte{0x91}, deep...)); err == nil {
		t.Error("too deep, and accepted")
	}
}

func TestRawInStorage(t *testing.T) {
	_, s := newMemory()
	ctx := t.Context()
	raw := Raw{0xa1, 'x'}
	if err := s.Put(ctx, "r", raw); err != nil {
		t.Fatal(err)
	}
	raw[1] = 'y'
	if v, _, err := Get[string](ctx, s, "r"); v != "x" || err != nil {
		t.Error(v, err)
	}
	got, ok, err := Get[Raw](ctx, s, "r")
	if !ok || err != nil || !bytes.Equal(got, []byte{0xa1, 'x'}) {
		t.Error(got, ok, err)
	}
	got[1] = 'z'
	many, err := s.GetMany(ctx, "r")
	if err != nil || string(many["r"].Raw()) != "\xa1x" {
		t.Error(many, err)
	}
	many["r"].Raw()[1] = 'z'
	if v, _, _ := Get[string](ctx, s, "r"); v != "x" {
		t.Errorf("%q: what is stored follows a copy", v)
	}
	if err := s.Put(ctx, "r", Raw{0xc1}); !errors.Is(err, ErrBadArgument) || !strings.Contains(err.Error(), "not msgpack") {
		t.Error(err)
	}
	if err := s.Put(ctx, "nil", Raw(nil)); err != nil {
		t.Error(err)
	}
	if p, ok, err := Get[*int](ctx, s, "nil"); p != nil || !ok || err != nil {
		t.Error(p, ok, err)
	}
}

// FuzzRaw: what is accepted the library reads to its end, and the other way round.
func FuzzRaw(f *testing.F) {
	for _, b := range rawSamples(f) {
		if len(b) < 1000 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := msgpack.NewDecoder(r).Skip()
		ok := err == nil && r.Len() == 0
		if got := wellFormed(b); (got == nil) != ok && !strings.Contains(got.Error(), "deeper") {
			t.Fatalf("%x: %v; the library says %v and leaves %d bytes", b, got, err, r.Len())
		}
	})
}
