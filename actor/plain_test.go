package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// common has a method of every common shape: named by what it takes and what it returns.
type common struct{ calls []string }

var errCommon = errors.New("of the method")

func (c *common) note(ctx context.Context, arg any) error {
	c.calls = append(c.calls, fmt.Sprintf("%T %v", arg, arg))
	if ctx.Value(failing{}) != nil {
		return errCommon
	}
	return nil
}

func (c *common) None(ctx context.Context) error                     { return c.note(ctx, nil) }
func (c *common) NoneInt(ctx context.Context) (int64, error)         { return -7, c.note(ctx, nil) }
func (c *common) NoneStr(ctx context.Context) (string, error)        { return "s", c.note(ctx, nil) }
func (c *common) NoneBytes(ctx context.Context) ([]byte, error)      { return nil, c.note(ctx, nil) }
func (c *common) NoneBool(ctx context.Context) (bool, error)         { return true, c.note(ctx, nil) }
func (c *common) Int(ctx context.Context, a int64) error             { return c.note(ctx, a) }
func (c *common) IntInt(ctx context.Context, a int64) (int64, error) { return a, c.note(ctx, a) }
func (c *common) IntStr(ctx context.Context, a int64) (string, error) {
	return fmt.Sprint(a), c.note(ctx, a)
}
func (c *common) IntBytes(ctx context.Context, a int64) ([]byte, error) {
	return fmt.Append(nil, a), c.note(ctx, a)
}
func (c *common) IntBool(ctx context.Context, a int64) (bool, error) { return a > 0, c.note(ctx, a) }
func (c *common) Str(ctx context.Context, a string) error            { return c.note(ctx, a) }
func (c *common) StrInt(ctx context.Context, a string) (int64, error) {
	return int64(len(a)), c.note(ctx, a)
}
func (c *common) StrStr(ctx context.Context, a string) (string, error) { return a, c.note(ctx, a) }
func (c *common) StrBytes(ctx context.Context, a string) ([]byte, error) {
	return []byte(a), c.note(ctx, a)
}
func (c *common) StrBool(ctx context.Context, a string) (bool, error) { return a != "", c.note(ctx, a) }
func (c *common) Bytes(ctx context.Context, a []byte) error           { return c.note(ctx, a) }
func (c *common) BytesInt(ctx context.Context, a []byte) (int64, error) {
	return int64(len(a)), c.note(ctx, a)
}
func (c *common) BytesStr(ctx context.Context, a []byte) (string, error) {
	return string(a), c.note(ctx, a)
}
func (c *common) BytesBytes(ctx context.Context, a []byte) ([]byte, error) { return a, c.note(ctx, a) }
func (c *common) BytesBool(ctx context.Context, a []byte) (bool, error) {
	return a != nil, c.note(ctx, a)
}

// TestPlainCallsAreTheSame: a method of a common shape does, for every argument in every encoding, what it does by reflection.
func TestPlainCallsAreTheSame(t *testing.T) {
	class := Define("Common", func(context.Context, *State) (*common, error) { return &common{}, nil })
	if err := class.Err(); err != nil {
		t.Fatal(err)
	}
	type sent struct {
		e Encoding
		b []byte
	}
	args := []sent{{EncodingNone, nil}, {EncodingMsgpack, nil}, {EncodingJSON, nil}, {EncodingMsgpack, []byte{0xc4}}, {EncodingMsgpack, []byte{0xa5, 'x'}}, {9, []byte{1}}}
	for _, v := range []any{nil, int64(0), int64(5), int64(-1), int64(math.MinInt64), uint64(math.MaxUint64), "", "x", strings.Repeat("y", 40), strings.Repeat("z", 300),
		strings.Repeat("u", 70_000), []byte{}, []byte("abc"), bytes.Repeat([]byte{3}, 300), bytes.Repeat([]byte{4}, 70_000), true, 1.5, []int{1}} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, sent{EncodingMsgpack, b}, sent{EncodingMsgpack, append(bytes.Clone(b), 0)})
		j, err := encode(EncodingJSON, v)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, sent{EncodingJSON, j})
	}
	if len(class.Methods()) != 20 {
		t.Fatal(class.Methods())
	}
	run := func(ctx context.Context, m *Method, s sent) string {
		in, err := class.New(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		arg, bad := m.Decode(s.e, s.b, nil)
		if bad != nil {
			return fmt.Sprintf("%+v", *bad)
		}
		out, e, err := m.Call(ctx, in, arg, s.e)
		return fmt.Sprintf("% x %d %v %q", out, e, err, in.Value().(*common).calls)
	}
	for _, name := range class.Methods() {
		m, _ := class.Method(name)
		if m.plain.call == nil {
			t.Errorf("%s is called by reflection", name)
		}
		general := *m
		general.plain = plain{}
		for _, ctx := range []context.Context{t.Context(), context.WithValue(t.Context(), failing{}, true)} {
			for _, s := range args {
				if got, want := run(ctx, m, s), run(ctx, &general, s); got != want {
					t.Errorf("%s of % .40x (%d): %.300s\nby reflection: %.300s", name, s.b, s.e, got, want)
				}
			}
		}
	}
}

// TestScalarsAgainstTheLibrary: what is written without the encoder is what the encoder writes.
func TestScalarsAgainstTheLibrary(t *testing.T) {
	values := []any{true, false, []byte(nil), 0, 1, -1, math.MinInt, math.MaxInt}
	for _, n := range []int{0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536} {
		values = append(values, strings.Repeat("ü", n/2)+strings.Repeat("x", n%2), make([]byte, n), n, -n)
	}
	for _, v := range values {
		var want bytes.Buffer
		enc := msgpack.NewEncoder(&want)
		enc.UseCompactInts(true)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		if got, err := Marshal(v); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%.40v: % .20x, %v; the library: % .20x", v, got, err, want.Bytes())
		}
	}
}

// FuzzReadInto: what is read without the decoder is what the decoder reads, into new memory and into what was there.
func FuzzReadInto(f *testing.F) {
	for _, b := range []string{"\x00", "\xff", "\xcc\x80", "\xcf\x80\x00\x00\x00\x00\x00\x00\x00", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "\xc0", "\xc2", "\xc3", "\xc4\x00", "\xc4\x02ab",
		"\xc5\x00\x01a", "\xc6\x00\x00\x00\x01a", "\xa0", "\xa1a", "\xd9\x01a", "\xda\x00\x01a", "\xdb\x00\x00\x00\x01a", "\xa1", "\xd9", "\xc4\x05a"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fresh := func() []any {
			i, n, s, raw, old, y := int64(9), 9, "old", []byte(nil), []byte("older"), true
			return []any{&i, &n, &s, &raw, &old, &y}
		}
		got, want := fresh(), fresh()
		for i := range got {
			if !readInto(b, got[i]) {
				continue
			}
			if err := msgpack.Unmarshal(b, want[i]); err != nil || !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("% x into a %T: %v, the library reads %v, %v", b, got[i], reflect.ValueOf(got[i]).Elem(), reflect.ValueOf(want[i]).Elem(), err)
			}
		}
	})
}

// failing is a context's key: methods are to fail.
type failing struct{}
