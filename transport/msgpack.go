package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// The little msgpack that the wire's own bodies need. Payloads, which are the application's, go through the library.

func appendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, 0x90|byte(n))
	}
	return append(b, 0xdc, byte(n>>8), byte(n))
}

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v < 0x80:
		return append(b, byte(v))
	case v <= math.MaxUint8:
		return append(b, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return append(b, 0xcd, byte(v>>8), byte(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

func appendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n <= math.MaxUint8:
		b = append(b, 0xd9, byte(n))
	case n <= math.MaxUint16:
		b = append(b, 0xda, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

func appendBytes(b, v []byte) []byte {
	switch n := len(v); {
	case n <= math.MaxUint8:
		b = append(b, 0xc4, byte(n))
	case n <= math.MaxUint16:
		b = append(b, 0xc5, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
	}
	return append(b, v...)
}

// reader consumes the fields of one skimmed array in order and remembers the first thing that was wrong. A field that is not
// there any more, as from an older version, reads as zero.
type reader struct {
	b    []byte
	left int
	what string
	err  error
}

// read begins a body: an array, skimmed.
func read(what string, b []byte) reader {
	r := reader{b: b, what: what}
	if r.err = Skim(b); r.err == nil {
		r.left = r.arrayLen()
	}
	return r
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// end skips what a newer version has added and returns the error.
func (r *reader) end() error {
	if r.err != nil {
		return fmt.Errorf("transport: %s: %w", r.what, r.err)
	}
	return nil
}

func (r *reader) arrayLen() int {
	if r.err != nil {
		return 0
	}
	items, skip, isMap, err := skimHead(r.b, false)
	c := byte(0)
	if len(r.b) > 0 {
		c = r.b[0]
	}
	if err != nil || isMap || (c&0xf0 != 0x90 && c != 0xdc && c != 0xdd) {
		r.fail("an array is missing")
		return 0
	}
	r.b = r.b[skip:]
	return int(items)
}

// next reports whether there is another field.
func (r *reader) next() bool {
	if r.err != nil || r.left == 0 {
		return false
	}
	r.left--
	return true
}

func (r *reader) uint(name string, limit uint64) uint64 {
	if !r.next() {
		return 0
	}
	v, n, err := uintAt(r.b)
	switch {
	case err != nil:
		r.fail("%s is not an unsigned integer", name)
	case v > limit:
		r.fail("%s is %d; at most %d is possible", name, v, limit)
	}
	if r.err != nil {
		return 0
	}
	r.b = r.b[n:]
	return v
}

var errNotUint = errors.New("not an unsigned integer")

func uintAt(b []byte) (v uint64, n int, err error) {
	if len(b) == 0 {
		return 0, 0, errNotUint
	}
	switch c := b[0]; {
	case c < 0x80:
		return uint64(c), 1, nil
	case c == 0xcc && len(b) >= 2:
		return uint64(b[1]), 2, nil
	case c == 0xcd && len(b) >= 3:
		return uint64(binary.BigEndian.Uint16(b[1:])), 3, nil
	case c == 0xce && len(b) >= 5:
		return uint64(binary.BigEndian.Uint32(b[1:])), 5, nil
	case c == 0xcf && len(b) >= 9:
		return binary.BigEndian.Uint64(b[1:]), 9, nil
	}
	return 0, 0, errNotUint
}

// raw reads a str or a bin without copying.
func (r *reader) raw(name string, bin bool, limit int) []byte {
	if !r.next() {
		return nil
	}
	c := byte(0)
	if len(r.b) > 0 {
		c = r.b[0]
	}
	var head, n uint64
	switch {
	case !bin && c&0xe0 == 0xa0:
		head, n = 1, uint64(c&0x1f)
	case !bin && (c == 0xd9 || c == 0xda || c == 0xdb), bin && (c == 0xc4 || c == 0xc5 || c == 0xc6):
		n, head, _ = declared(r.b)
	default:
		r.fail("%s has another type", name)
		return nil
	}
	if n > uint64(limit) {
		r.fail("%s is %d bytes long; at most %d are allowed", name, n, limit)
		return nil
	}
	if head+n > uint64(len(r.b)) {
		r.fail("%s ends too soon", name)
		return nil
	}
	v := r.b[head : head+n : head+n]
	r.b = r.b[head+n:]
	return v
}

func (r *reader) string(name string, limit int) string {
	v := r.raw(name, false, limit)
	if !utf8.Valid(v) {
		r.fail("%s is not UTF-8", name)
		return ""
	}
	return string(v)
}

func (r *reader) bytes(name string, limit int) []byte { return r.raw(name, true, limit) }

func (r *reader) strings(name string, count, limit int) []string {
	if !r.next() {
		return nil
	}
	n := r.arrayLen()
	if n > count {
		r.fail("%s has %d entries; at most %d are allowed", name, n, count)
	}
	if r.err != nil || n == 0 {
		return nil
	}
	left := r.left
	r.left = n
	out := make([]string, 0, n)
	for range n {
		out = append(out, r.string(name, limit))
	}
	r.left = left
	return out
}
