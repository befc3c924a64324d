package shapes

import (
	"context"
	"errors"
	"time"
	"unsafe"

	"github.com/ringfence/ringfence/actor"
)

//go:generate go run github.com/ringfence/ringfence/cmd/ringfence gen --type Good,English,list,pair --out refs.go

// Classes are all classes of the package, by name.
func Classes() map[string]actor.Class {
	m := map[string]actor.Class{}
	for _, c := range []actor.Class{
		actor.Define("Good", newGood), actor.Define("Bad", newBad), actor.Define("Valued", newValued), actor.Define("Empty", newEmpty),
		actor.Define("Rung", newRung),
		actor.Define("Greeter", NewGreeter), actor.Define("ints", newList[int]),
		actor.Define[pair[string, time.Duration]]("Pair", func(context.Context, *actor.State) (pair[string, time.Duration], error) {
			return pair[string, time.Duration]{}, nil
		}),
	} {
		m[c.Name()] = c
	}
	return m
}

// Good has callable methods of every good shape, and some that are not callable.
type Good struct {
	base
	Embedded
}

type base struct{}

// Embedded gives its methods to Good.
type Embedded struct{}

// Item is an argument and a result.
type Item struct {
	Name string        `json:"name"`
	TTL  time.Duration `json:"ttl"`
}

// Texts is a type of its own, Number another name of one.
type (
	Texts  []string
	Number = int64
)

func newGood(context.Context, *actor.State) (*Good, error) { return &Good{}, nil }

// None takes nothing and returns nothing.
//
// Its comment has two paragraphs and some code:
//
//	good.None(ctx)
//
//nolint:all
func (*Good) None(context.Context) error { return nil }

func (*Good) Arg(_ context.Context, s string) error {
	if s == "" {
		return actor.Fail("empty", "an empty text")
	}
	return nil
}

// Result is 7.
func (*Good) Result(context.Context) (int, error) { return 7, nil }

// Both adds a second to what it is given.
func (*Good) Both(_ context.Context, item Item) (Item, error) {
	item.TTL += time.Second
	return item, nil
}

func (*Good) Pointer(_ context.Context, ctx *Item) (*Item, error) { return ctx, nil }
func (*Good) Unnamed(context.Context, Number) (Number, error)     { return 1, nil }
func (*Good) Many(_ context.Context, r map[string][]*Item) (Texts, error) {
	return make(Texts, len(r)), nil
}
func (*Good) Any(_ context.Context, any any) (any, error)                 { return any, nil }
func (*Good) Shadow(_ context.Context, time time.Time) (time.Time, error) { return time, nil }
func (*Good) Opts(_ context.Context, opts [2]bool) (struct{ A int }, error) {
	return struct{ A int }{len(opts)}, nil
}
func (*Good) NotCallable(int) int                                            { return 0 }
func (*Good) NoParameters() error                                            { return errors.New("not called") }
func (*Good) ContextLast(int, context.Context) error                         { return nil }
func (*Good) Contexts(...context.Context) error                              { return nil }
func (*Good) hidden(context.Context, int, int)                               {}
func (base) Promoted(_ context.Context, actor []byte) ([]byte, error)        { return actor, nil }
func (Embedded) AlsoPromoted(context.Context) (map[string]time.Month, error) { return nil, nil }

var _ = (*Good).hidden

// Bad has context methods that are of no callable shape.
type Bad struct{}

func newBad(context.Context, *actor.State) (Bad, error) { return Bad{}, nil }

func (Bad) Three(context.Context, int, int) error                { return nil }
func (Bad) Variadic(context.Context, ...int) error               { return nil }
func (Bad) NoError(context.Context) int                          { return 0 }
func (Bad) Nothing(context.Context)                              {}
func (Bad) TwoResults(context.Context) (int, int, error)         { return 0, 0, nil }
func (Bad) TakesChan(context.Context, chan int) error            { return nil }
func (Bad) TakesNamed(context.Context, context.CancelFunc) error { return nil }
func (Bad) ReturnsFunc(context.Context) (func(), error)          { return nil, nil }
func (Bad) ReturnsUnsafe(context.Context) (unsafe.Pointer, error) {
	return nil, nil
}

// Alarm is of no shape for a handler of alarms.
func (Bad) Alarm(time.Time) error { return nil }

//lint:ignore ST1008 it is bad
func (Bad) ErrorFirst(context.Context) (error, int) { return nil, 0 }

func (Bad) Fine(context.Context) error { return nil }

// Valued has methods of the pointer that its constructor does not return: they are not callable.
type Valued struct{}

func newValued(context.Context, *actor.State) (Valued, error) { return Valued{}, nil }

func (Valued) OfValue(context.Context) error                   { return nil }
func (*Valued) OfPointer(context.Context, int, int, int) error { return nil }

// Empty has no methods.
type Empty struct{}

func newEmpty(context.Context, *actor.State) (*Empty, error) { return &Empty{}, nil }

// Rung has a handler of alarms, which is not callable.
type Rung struct{}

func newRung(context.Context, *actor.State) (*Rung, error) { return &Rung{}, nil }

func (*Rung) Alarm(context.Context, actor.AlarmInfo) error { return nil }
func (*Rung) Set(context.Context, time.Time) error         { return nil }

// English is a class by its interface.
type English interface {
	// Greet greets.
	Greet(ctx context.Context, name string) (string, error)
	hidden(ctx context.Context) error
}

type english struct{}

// NewGreeter is its constructor.
func NewGreeter(context.Context, *actor.State) (English, error) { return english{}, nil }

func (english) Greet(_ context.Context, name string) (string, error) { return "hello " + name, nil }
func (english) Hidden(context.Context) error                         { return nil }
func (english) hidden(context.Context) error                         { return nil }

// list is generic: its class is of one instance.
type list[T any] struct{ items []T }

func newList[T any](context.Context, *actor.State) (*list[T], error) { return &list[T]{}, nil }

// Append adds to the end.
func (l *list[T]) Append(_ context.Context, items []T) (int, error) {
	l.items = append(l.items, items...)
	return len(l.items), nil
}

// Pairs is a generic type.
type Pairs[K comparable, V any] struct {
	Key   K
	Value V
}

type pair[K comparable, V any] struct{}

// Pair makes one of its argument.
func (pair[K, V]) Pair(_ context.Context, m map[K]V) ([]Pairs[K, V], error) {
	var all []Pairs[K, V]
	for k, v := range m {
		all = append(all, Pairs[K, V]{k, v})
	}
	return all, nil
}
