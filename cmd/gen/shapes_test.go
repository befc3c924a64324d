package gen

import (
	"context"
	"errors"
	"flag"
	"go/types"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/cmd/gen/internal/shapes"
	"github.com/ringfence/ringfence/transport/client"
)

var _ actor.Objects = (*client.Client)(nil)

const shapesDir = "internal/shapes"

var shapesOptions = Options{Dir: shapesDir, Types: []string{"Good", "English", "list", "pair"}, Out: shapesDir + "/refs.go"}

var update = flag.Bool("update", false, "write the golden files")

// What actor.Define makes of a class by reflection, and what gen makes of its source: the same methods with the same types, or the same
// errors in the same words.
func TestRuleOfDefine(t *testing.T) {
	p, err := load(t.Context(), goList, shapesDir)
	if err != nil {
		t.Fatal(err)
	}
	classes, checked := shapes.Classes(), 0
	for _, c := range p.defined() {
		defined, ok := classes[c.name]
		if !ok {
			t.Fatalf("no class %q", c.name)
		}
		checked++
		methods, err := p.callable(c)
		if got, want := lines(err), lines(defined.Err()); !slices.Equal(got, want) {
			t.Errorf("class %s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		var got []string
		for _, m := range methods {
			got = append(got, m.name)
			if d, ok := defined.Method(m.name); ok {
				sameType(t, c.name+"."+m.name+" takes", m.arg == nil, d.Arg, func() string { return short(m.arg) })
				sameType(t, c.name+"."+m.name+" returns", m.result == nil, d.Result, func() string { return short(m.result) })
			}
		}
		if !slices.Equal(got, defined.Methods()) {
			t.Errorf("class %s: callable are %v, want %v", c.name, got, defined.Methods())
		}
	}
	if checked != len(classes) || len(lines(classes["Bad"].Err())) < 10 || len(classes["Good"].Methods()) < 12 {
		t.Errorf("%d classes were compared, want %d, Bad with at least ten errors and Good with twelve methods", checked, len(classes))
	}
}

func sameType(t *testing.T, what string, none bool, want reflect.Type, got func() string) {
	t.Helper()
	if none != (want == nil) {
		t.Errorf("%s nothing: %v, want type %v", what, none, want)
		return
	}
	// Other names of a type are lost to reflection, which has its own spelling of type arguments, too.
	texts := strings.NewReplacer("shapes.Number", "int64", "interface {}", "any", "{ A int }", "{A int}", "[]byte", "[]uint8", module+"/cmd/gen/internal/", "", ", ", ",")
	if !none && strings.ReplaceAll(texts.Replace(got()), "struct{", "struct {") != texts.Replace(want.String()) {
		t.Errorf("%s %s, want %v", what, got(), want)
	}
}

const module = "github.com/ringfence/ringfence"

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return slices.Sorted(strings.SplitSeq(err.Error(), "\n"))
}

// The committed stubs are what gen writes. go test ./cmd/gen -run Golden -update, or go generate, brings them up to date.
func TestGolden(t *testing.T) {
	for _, o := range []Options{shapesOptions, {Dir: "../../actor/stock"}} {
		p, err := load(t.Context(), goList, o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		classes, err := p.choose(o)
		if err != nil {
			t.Fatal(err)
		}
		files, err := p.plan(o.Dir, o.Out, classes)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.source, err = p.render(f.classes); err != nil {
				t.Fatal(err)
			}
			if *update {
				if _, err := f.write(); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(f.name); err != nil || string(f.source) != string(want) {
				t.Errorf("%s is not what gen writes: run go generate (%v)\n%s", f.name, err, f.source)
			}
		}
	}
}

// The handler of alarms is not callable; its name is for nothing else.
func TestAlarmHandler(t *testing.T) {
	named := func(path, name string) types.Type {
		obj := types.NewTypeName(0, types.NewPackage(path, path), name, nil)
		return types.NewNamed(obj, types.NewStruct(nil, nil), nil)
	}
	list := func(all ...types.Type) *types.Tuple {
		var vars []*types.Var
		for _, typ := range all {
			vars = append(vars, types.NewParam(0, nil, "", typ))
		}
		return types.NewTuple(vars...)
	}
	ctx, info, fail := named("context", "Context"), named(actorPath, "AlarmInfo"), types.Universe.Lookup("error").Type()
	for _, c := range []struct {
		in, out *types.Tuple
		want    bool
	}{
		{list(ctx, info), list(fail), true},
		{list(ctx), list(fail), false},
		{list(info, ctx), list(fail), false},
		{list(ctx, types.NewPointer(info)), list(fail), false},
		{list(ctx, named("example.com/actor", "AlarmInfo")), list(fail), false},
		{list(ctx, info), list(), false},
		{list(ctx, info), list(info, fail), false},
		{list(), list(), false},
	} {
		fn := types.NewFunc(0, nil, "Alarm", types.NewSignatureType(nil, nil, nil, c.in, c.out, false))
		m, err := (&pkg{}).method(&class{name: "C"}, fn)
		if m != nil || (err == nil) != c.want {
			t.Errorf("%v: callable %v, error %v, want one: %v", fn, m != nil, err, !c.want)
		}
	}
}

// local is a source of references to objects in memory: what is sent and answered goes through the codec, as between nodes.
type local struct {
	t       *testing.T
	objects map[actor.ID]actor.Instance
}

type localRef struct {
	l  *local
	id actor.ID
}

type done struct {
	result []byte
	err    error
}

func (l *local) Object(class, key string) actor.Ref {
	return localRef{l, actor.ID{Class: class, Key: key}}
}
func (r localRef) ID() actor.ID { return r.id }

func (r localRef) Call(ctx context.Context, method string, arg, reply any, opts ...actor.CallOption) error {
	return r.Start(ctx, method, arg, opts...).Wait(ctx, reply)
}

func (r localRef) Start(ctx context.Context, method string, arg any, _ ...actor.CallOption) *actor.Pending {
	c := shapes.Classes()[r.id.Class]
	in, ok := r.l.objects[r.id]
	if !ok {
		var err error
		if in, err = c.New(ctx, nil); err != nil {
			r.l.t.Fatal(err)
		}
		r.l.objects[r.id] = in
	}
	m, ok := c.Method(method)
	if !ok {
		return actor.NewPending(done{err: c.NoMethod(method)})
	}
	var b []byte
	e := actor.EncodingNone
	if arg != nil {
		var err error
		if b, err = actor.Marshal(arg); err != nil {
			return actor.NewPending(done{err: err})
		}
		e = actor.EncodingMsgpack
	}
	a, bad := m.Decode(e, b, nil)
	if bad != nil {
		return actor.NewPending(done{err: bad})
	}
	result, _, err := m.Call(ctx, in, a, e)
	return actor.NewPending(done{result, err})
}

func (d done) Wait(_ context.Context, reply any) error {
	if d.err != nil || reply == nil {
		return d.err
	}
	return actor.Unmarshal(d.result, reply)
}

// The generated stubs, compiled, make calls of every shape.
func TestCalls(t *testing.T) {
	ctx := t.Context()
	from := &local{t, map[actor.ID]actor.Instance{}}
	good := shapes.NewGoodRef(from, "k")
	if good.ID() != (actor.ID{Class: "Good", Key: "k"}) {
		t.Errorf("ID %v", good.ID())
	}
	item := shapes.Item{Name: "n", TTL: time.Second}
	is := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	is("None", nil, good.None(ctx), nil)
	is("StartNone", nil, good.StartNone(ctx).Wait(ctx, nil), nil)
	is("Arg", nil, good.Arg(ctx, "x"), nil)
	if err := good.Arg(ctx, ""); !errors.Is(err, actor.Fail("empty", "")) {
		t.Errorf("Arg: %v", err)
	}
	if err := good.StartArg(ctx, "").Wait(ctx, nil); !errors.Is(err, actor.Fail("empty", "")) {
		t.Errorf("StartArg: %v", err)
	}
	n, err := good.Result(ctx)
	is("Result", n, err, 7)
	both, err := good.Both(ctx, item)
	is("Both", both, err, shapes.Item{Name: "n", TTL: 2 * time.Second})
	pending := good.StartBoth(ctx, item)
	for range 2 {
		both, err = pending.Wait(ctx)
		is("StartBoth", both, err, shapes.Item{Name: "n", TTL: 2 * time.Second})
	}
	ptr, err := good.Pointer(ctx, &item)
	is("Pointer", ptr, err, &item)
	ptr, err = good.Pointer(ctx, nil)
	is("Pointer(nil)", ptr, err, (*shapes.Item)(nil))
	many, err := good.Many(ctx, map[string][]*shapes.Item{"a": nil, "b": {&item}})
	is("Many", many, err, shapes.Texts{"", ""})
	b, err := good.Promoted(ctx, []byte{0, 255})
	is("Promoted", b, err, []byte{0, 255})

	ints := shapes.NewIntsRef(from, "k")
	length, err := ints.Append(ctx, []int{1, 2})
	is("Append", length, err, 2)
	length, err = ints.StartAppend(ctx, []int{3}).Wait(ctx)
	is("Append", length, err, 3)
	pairs, err := shapes.NewPairRef(from, "k").Pair(ctx, map[string]time.Duration{"a": 5})
	is("Pair", pairs, err, []shapes.Pairs[string, time.Duration]{{Key: "a", Value: 5}})
	text, err := shapes.NewGreeterRef(from, "k").Greet(ctx, "you")
	is("Greet", text, err, "hello you")

	if _, err := actor.Start[int](ctx, good, "Missing", nil).Wait(ctx); !errors.Is(err, actor.ErrUnknownMethod) {
		t.Errorf("Missing: %v", err)
	}
}
