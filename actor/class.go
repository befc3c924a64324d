package actor

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Class is a kind of object: a name, a constructor, and the callable methods of what the constructor returns. Make one with Define.
type Class struct{ d *definition }

type definition struct {
	name    string
	err     error
	opts    ClassOptions
	newT    func(context.Context, *State) (reflect.Value, error)
	methods map[string]*Method
	names   []string
	alarm   *Method // nil if the class has no handler of alarms
}

// ClassOptions is what the options of a class add up to.
type ClassOptions struct {
	AllowStaleReplies bool
	Interleaved       bool
	Reentrant         bool
	IdleTimeout       time.Duration // 0: the host's default
	MailboxLimit      int           // 0: the host's default
	StorageLimit      int64         // bytes; 0: none
	Version           int
}

// ClassOption changes a class.
type ClassOption func(*ClassOptions)

// AllowStaleReplies lets replies leave without proof that the object had not moved meanwhile: faster reads, which may be of the past while
// the network is broken. Replies still wait for the writes before them.
func AllowStaleReplies() ClassOption { return func(o *ClassOptions) { o.AllowStaleReplies = true } }

// Interleaved lets other events of an object run while one is outside: while it waits for a call to another object, or in State.Await. One
// event at a time touches memory and storage all the same, and none is let in while storage is waited for; but what an event has read before it
// went outside may be different when it is back. This is the rule of the hosted original. Without it an event runs to its end before the next begins.
func Interleaved() ClassOption { return func(o *ClassOptions) { o.Interleaved = true } }

// Reentrant lets a call that comes back to an object which waits for it run, while the event that waits for it is outside. Without it, or
// Interleaved, such a call fails with ErrCallCycle.
func Reentrant() ClassOption { return func(o *ClassOptions) { o.Reentrant = true } }

// IdleTimeout is how long an activation stays in memory without an event. Must be positive.
func IdleTimeout(d time.Duration) ClassOption { return func(o *ClassOptions) { o.IdleTimeout = d } }

// MailboxLimit is how many events may wait for one activation; one more is refused with ErrOverloaded. Must be positive.
func MailboxLimit(n int) ClassOption { return func(o *ClassOptions) { o.MailboxLimit = n } }

// StorageLimit is how many bytes an object may store, keys and encoded values. A write that would make it more, and more than it is, fails with
// ErrStorageFull; reads, deletions and smaller values do not. Must be positive. Without it there is no limit. A write then also reads what it
// replaces. The limit may change, come and go: what was stored before counts, and is measured at the first write after.
func StorageLimit(bytes int64) ClassOption { return func(o *ClassOptions) { o.StorageLimit = bytes } }

// Version is a number of yours that operators see, to tell which nodes run which code. Must be positive.
func Version(n int) ClassOption { return func(o *ClassOptions) { o.Version = n } }

// Define makes a class. newT is the constructor: it runs before the first event of each activation, under the same rules as a method.
// Callable are the exported methods of T whose first parameter is a context:
//
//	func(ctx context.Context [, arg A]) ([R,] error)
//
// A context method of another shape is a mistake, which Err, and every host that is given the class, reports by name. Exported
// methods without a context are simply not callable. The method Alarm is not callable either: it is the handler of alarms, see AlarmInfo.
func Define[T any](name string, newT func(context.Context, *State) (T, error), opts ...ClassOption) Class {
	d := &definition{name: name, methods: map[string]*Method{}}
	errs := []error{ValidateClass(name)}
	if newT == nil {
		errs = append(errs, fmt.Errorf("class %s: the constructor is nil", name))
	}
	typ := reflect.TypeFor[T]()
	d.newT = func(ctx context.Context, s *State) (reflect.Value, error) {
		t, err := newT(ctx, s)
		if typ.Kind() == reflect.Interface { // the value is to be of this type, and not of the one within
			return reflect.ValueOf(&t).Elem(), err
		}
		return reflect.ValueOf(t), err
	}
	errs = append(errs, d.setOptions(opts)...)
	for i := range typ.NumMethod() {
		if typ.Method(i).Name == "Alarm" {
			m, err := newAlarm(name, typ, typ.Method(i))
			d.alarm, errs = m, append(errs, err) // Join leaves nil out
			continue
		}
		m, err := newMethod(name, typ, typ.Method(i))
		if err != nil {
			errs = append(errs, err)
		}
		if m != nil {
			m.plain = plainOf[T](m.fn)
			d.methods[m.Name] = m
			d.names = append(d.names, m.Name)
		}
	}
	slices.Sort(d.names)
	d.err = errors.Join(errs...)
	return Class{d}
}

func (d *definition) setOptions(opts []ClassOption) (errs []error) {
	const unset = -1 << 40
	o := ClassOptions{IdleTimeout: unset, MailboxLimit: unset, StorageLimit: unset, Version: unset}
	for _, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("class %s: an option is nil", d.name))
			continue
		}
		opt(&o)
	}
	check := func(what string, set, bad bool, value any) bool {
		if set && bad {
			errs = append(errs, fmt.Errorf("class %s: %s(%v): want a positive number", d.name, what, value))
		}
		return set
	}
	if !check("IdleTimeout", o.IdleTimeout != unset, o.IdleTimeout <= 0, o.IdleTimeout) {
		o.IdleTimeout = 0
	}
	if !check("MailboxLimit", o.MailboxLimit != unset, o.MailboxLimit <= 0, o.MailboxLimit) {
		o.MailboxLimit = 0
	}
	if !check("StorageLimit", o.StorageLimit != unset, o.StorageLimit <= 0, o.StorageLimit) {
		o.StorageLimit = 0
	}
	if !check("Version", o.Version != unset, o.Version <= 0, o.Version) {
		o.Version = 0
	}
	d.opts = o
	return errs
}

// Name is the class's name.
func (c Class) Name() string {
	if c.d == nil {
		return ""
	}
	return c.d.name
}

// Err is what is wrong with the definition; nil if nothing is.
func (c Class) Err() error {
	if c.d == nil {
		return errors.New("class: the zero Class is not defined: use actor.Define")
	}
	return c.d.err
}

// Options is what the class's options add up to.
func (c Class) Options() ClassOptions { return c.d.opts }

// Methods lists the callable methods, sorted. The caller must not change it.
func (c Class) Methods() []string { return c.d.names }

// Version is the number that the option Version gave; 0 if there was none.
func (c Class) Version() int { return c.d.opts.Version }

// Method finds a callable method.
func (c Class) Method(name string) (*Method, bool) {
	m := c.d.methods[name]
	return m, m != nil
}

// NoMethod is the error for a method that Method does not find; it lists those that exist.
func (c Class) NoMethod(name string) *Error {
	has := "has no callable methods"
	if len(c.d.names) > 0 {
		has = "has " + strings.Join(c.d.names, ", ")
	}
	if name == "Alarm" {
		has = "is not called by that name, which is for the handler of alarms; it " + has
	}
	return &Error{Code: CodeUnknownMethod, Outcome: DidNotRun, Message: fmt.Sprintf("no method %.100q: class %s %s", name, c.d.name, has)}
}

// Instance is what a constructor returned: one activation's memory.
type Instance struct{ v reflect.Value }

// Value is what the constructor returned. For test kits.
func (i Instance) Value() any { return i.v.Interface() }

// New runs the constructor. For hosts.
func (c Class) New(ctx context.Context, s *State) (Instance, error) {
	v, err := c.d.newT(ctx, s)
	if err != nil {
		return Instance{}, err
	}
	if k := v.Kind(); (k == reflect.Pointer || k == reflect.Interface) && v.IsNil() {
		return Instance{}, fmt.Errorf("the constructor of class %s returned nil without an error", c.d.name)
	}
	return Instance{v}, nil
}
