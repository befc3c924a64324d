package actor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

type good struct{ calls []string }

type pair struct {
	A int    `json:"a"`
	B []byte `json:"b"`
}

func (g *good) None(context.Context) error                        { return nil }
func (g *good) Arg(_ context.Context, s string) error             { g.calls = append(g.calls, s); return nil }
func (g *good) Result(context.Context) (int, error)               { return 7, nil }
func (g *good) Both(_ context.Context, p pair) (pair, error)      { p.A++; return p, nil }
func (g *good) Pointer(_ context.Context, p *pair) (*pair, error) { return p, nil }
func (g *good) Any(_ context.Context, v any) (any, error)         { return v, nil }
func (g *good) Fails(context.Context) (int, error)                { return 1, Fail("oops", "no %d", 1) }
func (g *good) Odd(_ context.Context, _ explosive) error          { return nil }
func (g *good) Unsendable(context.Context) (any, error)           { return func() {}, nil }
func (g *good) NotCallable(int) int                               { return 0 }

// explosive is a type whose own decoding panics.
type explosive struct{}

func (*explosive) UnmarshalJSON([]byte) error { panic("boom") }

func newGood(context.Context, *State) (*good, error) { return &good{}, nil }

func TestDefine(t *testing.T) {
	c := Define("Good", newGood, AllowStaleReplies(), IdleTimeout(time.Second), MailboxLimit(3), StorageLimit(9), Version(2))
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	want := []string{"Any", "Arg", "Both", "Fails", "None", "Odd", "Pointer", "Result", "Unsendable"}
	if got := c.Methods(); !slices.Equal(got, want) {
		t.Errorf("methods %v, want %v", got, want)
	}
	if o := c.Options(); o != (ClassOptions{AllowStaleReplies: true, IdleTimeout: time.Second, MailboxLimit: 3, StorageLimit: 9, Version: 2}) || c.Version() != 2 || c.Name() != "Good" {
		t.Errorf("options %+v, version %d, name %q", o, c.Version(), c.Name())
	}
	if m, ok := c.Method("Both"); !ok || m.Arg != reflect.TypeFor[pair]() || m.Result != reflect.TypeFor[pair]() {
		t.Errorf("Both: %+v, %v", m, ok)
	}
	if m, ok := c.Method("None"); !ok || m.Arg != nil || m.Result != nil {
		t.Errorf("None: %+v, %v", m, ok)
	}
	for _, name := range []string{"NotCallable", "unexported", ""} {
		if _, ok := c.Method(name); ok {
			t.Errorf("%q is callable", name)
		}
	}
	err := c.NoMethod("None2")
	if !errors.Is(err, ErrUnknownMethod) || err.Outcome != DidNotRun || !strings.Contains(err.Error(), `"None2"`) || !strings.Contains(err.Error(), strings.Join(want, ", ")) {
		t.Error(err)
	}
	if o := Define("Good", newGood).Options(); o != (ClassOptions{}) {
		t.Errorf("default options %+v", o)
	}
}

type bad struct{}

func (bad) Three(context.Context, int, int) error        { return nil }
func (bad) Variadic(context.Context, ...int) error       { return nil }
func (bad) NoError(context.Context) int                  { return 0 }
func (bad) Nothing(context.Context)                      {}
func (bad) TwoResults(context.Context) (int, int, error) { return 0, 0, nil }
func (bad) TakesChan(context.Context, chan int) error    { return nil }
func (bad) ReturnsFunc(context.Context) (func(), error)  { return nil, nil }
func (bad) Alarm(context.Context) error                  { return nil }
func (bad) Fine(context.Context) error                   { return nil }

func TestDefineRefuses(t *testing.T) {
	c := Define("9bad", func(context.Context, *State) (bad, error) { return bad{}, nil }, IdleTimeout(0), MailboxLimit(-1), StorageLimit(0), Version(0))
	if c.Err() == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`class "9bad"`, "IdleTimeout(0s)", "MailboxLimit(-1)", "StorageLimit(0)", "Version(0)",
		"method Three takes 2 arguments", "Variadic is variadic", "NoError does not return an error", "Nothing does not return",
		"TwoResults returns 2 values", "TakesChan takes a chan int", "ReturnsFunc returns a func()", "the name Alarm is for the handler of alarms",
	} {
		if !strings.Contains(c.Err().Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, c.Err())
		}
	}
	if strings.Contains(c.Err().Error(), "Fine") {
		t.Errorf("a good method is named: %v", c.Err())
	}
	if (Class{}).Err() == nil || Define[*good]("G", nil).Err() == nil {
		t.Error("the zero Class or a nil constructor passes")
	}
	if err := Define("G", newGood, nil).Err(); err == nil || err.Error() != "class G: an option is nil" {
		t.Errorf("a nil option: %v", err)
	}
}

type greeter interface {
	Greet(ctx context.Context, name string) (string, error)
	secret(ctx context.Context) error // reflection lists it, as it does not for other types
}
type english struct{}

func (english) Greet(_ context.Context, name string) (string, error) { return "hello " + name, nil }
func (english) Hidden(context.Context) error                         { return nil }
func (english) secret(context.Context) error                         { return nil }

func TestInterfaceClass(t *testing.T) {
	c := Define("Greeter", func(context.Context, *State) (greeter, error) { return english{}, nil })
	if c.Err() != nil || !slices.Equal(c.Methods(), []string{"Greet"}) {
		t.Fatal(c.Err(), c.Methods())
	}
	got, _, err := call(t, c, "Greet", EncodingJSON, `"you"`)
	if string(got) != `"hello you"` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestConstructor(t *testing.T) {
	cause := errors.New("cause")
	fails := Define("F", func(context.Context, *State) (*good, error) { return &good{}, cause })
	if _, err := fails.New(t.Context(), nil); !errors.Is(err, cause) {
		t.Error(err)
	}
	null := Define("N", func(context.Context, *State) (*good, error) { return nil, nil })
	if _, err := null.New(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "class N returned nil") {
		t.Error(err)
	}
}

func call(t *testing.T, c Class, method string, e Encoding, arg string) ([]byte, Encoding, error) {
	t.Helper()
	in, err := c.New(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := c.Method(method)
	if !ok {
		t.Fatal(c.NoMethod(method))
	}
	a, bad := m.Decode(e, []byte(arg), nil)
	if bad != nil {
		return nil, 0, bad
	}
	return m.Call(t.Context(), in, a, e)
}

func TestCallJSON(t *testing.T) {
	c := Define("Good", newGood)
	for _, x := range []struct{ method, arg, result, err string }{
		{"None", "", "", ""},
		{"None", "null", "", ""},
		{"None", "1", "", "takes no argument"},
		{"Arg", `"x"`, "", ""},
		{"Arg", "", "", "wants an argument of type string"},
		{"Arg", "5", "", "argument of type string"},
		{"Arg", `"x" "y"`, "", "argument of type string"},
		{"Result", "", "7", ""},
		{"Both", `{"a":1,"b":"AQI="}`, `{"a":2,"b":"AQI="}`, ""},
		{"Pointer", `null`, `null`, ""},
		{"Any", `[1,"a"]`, `[1,"a"]`, ""},
		{"Fails", "", "", "oops: no 1"},
		{"Odd", "1", "", "panic: boom"},
		{"Unsendable", "", "", "cannot be encoded"},
	} {
		got, e, err := call(t, c, x.method, EncodingJSON, x.arg)
		switch {
		case x.err != "":
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%s(%s): error %v, want %q", x.method, x.arg, err, x.err)
			}
		case err != nil || string(got) != x.result:
			t.Errorf("%s(%s) = %s, %v", x.method, x.arg, got, err)
		case (e == EncodingNone) != (x.result == ""):
			t.Errorf("%s: encoding %d of %q", x.method, e, got)
		}
	}
}

func TestCallMsgpack(t *testing.T) {
	c := Define("Good", newGood)
	arg, err := Marshal(pair{41, []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	got, e, err := call(t, c, "Both", EncodingMsgpack, string(arg))
	var p pair
	if err != nil || e != EncodingMsgpack || Unmarshal(got, &p) != nil || p.A != 42 {
		t.Errorf("%x, %d, %v: %+v", got, e, err, p)
	}
	for _, x := range []struct {
		e    Encoding
		arg  string
		want string
	}{
		{EncodingMsgpack, string(arg) + "x", "1 bytes after the value"},
		{EncodingMsgpack, "\xc1", "argument of type"},
		{EncodingMsgpack, "\xdd\xff\xff\xff\xff", "argument of type"},
		{EncodingMsgpack, "", "none was sent"},
		{7, "x", "number 7"},
	} {
		_, _, err := call(t, c, "Both", x.e, x.arg)
		e := (*Error)(nil)
		if !errors.As(err, &e) || e.Code != CodeBadArgument || e.Outcome != DidNotRun || !strings.Contains(e.Message, x.want) {
			t.Errorf("%d %q: %v, want %q", x.e, x.arg, err, x.want)
		}
	}
	m, _ := c.Method("Both")
	if _, err := m.Decode(EncodingMsgpack, arg, func(Encoding, reflect.Type, []byte) error { return errors.New("too deep") }); err == nil || !strings.Contains(err.Message, "too deep") {
		t.Errorf("skim is not heard: %v", err)
	}
	// Without an encoding, which is a call without an argument, the answer is msgpack.
	if got, e, err := call(t, c, "Result", EncodingNone, ""); err != nil || e != EncodingMsgpack || string(got) != "\x07" {
		t.Errorf("%x, %d, %v", got, e, err)
	}
	// A caller's nil is sent as no argument: to a method that takes anything it is nil again.
	if got, e, err := call(t, c, "Any", EncodingNone, ""); err != nil || e != EncodingMsgpack || string(got) != "\xc0" {
		t.Errorf("Any(nil): %q in encoding %d, %v", got, e, err)
	}
	if _, e, err := call(t, c, "None", EncodingMsgpack, "\xc0"); err != nil || e != EncodingNone {
		t.Error(e, err)
	}
}

// A decoded argument must not share bytes with what it was decoded from: frames are used again.
func TestArgumentIsolation(t *testing.T) {
	for _, e := range []Encoding{EncodingMsgpack, EncodingJSON} {
		b, err := encode(e, pair{1, []byte("abc")})
		if err != nil {
			t.Fatal(err)
		}
		m, _ := Define("Good", newGood).Method("Both")
		arg, bad := m.Decode(e, b, nil)
		if bad != nil {
			t.Fatal(bad)
		}
		clear(b)
		if got := arg.v.Interface().(pair); string(got.B) != "abc" {
			t.Errorf("encoding %d: %q", e, got.B)
		}
	}
}

func TestReturned(t *testing.T) {
	app := Fail("sold-out", "none left")
	nested := &Error{Code: CodeOverloaded, Outcome: DidNotRun, Retryable: true, Overloaded: true, Object: ID{"C", "k"}}
	for _, c := range []struct {
		in   error
		want Error
	}{
		{errors.New("plain"), Error{Code: CodeApp, Message: "plain"}},
		{app, Error{Code: CodeApp, App: "sold-out", Message: "none left"}},
		{fmt.Errorf("wrapped: %w", app), Error{Code: CodeApp, App: "sold-out", Message: "wrapped: sold-out: none left"}},
		{nested, Error{Code: CodeOverloaded, Retryable: true, Overloaded: true, Object: ID{"C", "k"}, Message: "a queue is full: call less often, or again later"}},
		{ErrMoved, Error{Code: CodeMoved, Message: MovedText}},
		{context.DeadlineExceeded, Error{Code: CodeDeadline, Message: context.DeadlineExceeded.Error()}},
	} {
		c.want.Outcome, c.want.Remote = Ran, true
		got := Returned(c.in)
		g := *got
		g.cause = nil
		if g != c.want {
			t.Errorf("Returned(%v) = %+v, want %+v", c.in, g, c.want)
		}
	}
	if ErrMoved.(*Error).Outcome != 0 || nested.Outcome != DidNotRun {
		t.Error("the method's error was changed")
	}
}

// FuzzDecode: an argument is decoded without a panic, and what it takes is bounded by its bytes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":1}`), true)
	f.Add([]byte("\x82\xa1a\x01\xa1b\xc4\x01x"), false)
	m, _ := Define("Good", newGood).Method("Both")
	f.Fuzz(func(t *testing.T, b []byte, isJSON bool) {
		e := EncodingMsgpack
		if isJSON {
			e = EncodingJSON
		} else if wellFormed(b) != nil {
			return // the node's skim refuses it
		}
		if n := allocated(func() { _, _ = m.Decode(e, b, nil) }); n > uint64(64*len(b)+64<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(b))
		}
		if arg, err := m.Decode(e, b, nil); err == nil {
			if _, err := json.Marshal(arg.v.Interface()); err != nil {
				t.Error(err)
			}
		}
	})
}
