package actor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/vmihailenco/msgpack/v5"
)

// Encoding tags the bytes of an argument or a result. The numbers are those of the wire.
type Encoding uint8

const (
	EncodingNone    Encoding = 0 // no argument, no result
	EncodingMsgpack Encoding = 1
	EncodingJSON    Encoding = 2
)

// Marshal encodes a value as stored values, arguments and results are: msgpack with compact integers; struct fields are named by
// their msgpack tag, else their json tag. The bytes are the caller's. Refused is, beside types that have no encoding, what is nested deeper than
// 100, and so whatever leads back to itself, and a value whose own encoder panics.
func Marshal(v any) (b []byte, err error) {
	if v == nil {
		return []byte{0xc0}, nil
	}
	if s, ok := scalarOf(v); ok {
		return s.appendTo(nil), nil
	}
	if err := checkNesting(v); err != nil {
		return nil, err
	}
	defer func() { // the library panics on some values, and types may bring their own encoders
		if r := recover(); r != nil {
			b, err = nil, fmt.Errorf("encoding a %T panicked: %v", v, r)
		}
	}()
	var buf bytes.Buffer
	enc := msgpack.GetEncoder()
	defer msgpack.PutEncoder(enc)
	enc.ResetWriter(&buf)
	enc.SetCustomStructTag("json")
	enc.UseCompactInts(true)
	enc.SetSortMapKeys(true) // where the library can: what is the same twice should look the same, see Idempotent
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// appendInt is what the encoder writes for an int64 with compact integers.
func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0 && n < 1<<7, n < 0 && n >= -1<<5:
		return append(b, byte(n))
	case n >= 0 && n < 1<<8:
		return append(b, 0xcc, byte(n))
	case n >= 0 && n < 1<<16:
		return append(b, 0xcd, byte(n>>8), byte(n))
	case n >= 0 && n < 1<<32:
		return append(b, 0xce, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	case n >= 0:
		return appendUint64(append(b, 0xcf), uint64(n))
	case n >= -1<<7:
		return append(b, 0xd0, byte(n))
	case n >= -1<<15:
		return append(b, 0xd1, byte(n>>8), byte(n))
	case n >= -1<<31:
		return append(b, 0xd2, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return appendUint64(append(b, 0xd3), uint64(n))
}

func appendUint64(b []byte, n uint64) []byte {
	return append(b, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// Unmarshal decodes what Marshal wrote into a pointer; b is not kept. Bytes after the value are an error. Into an any, integers become
// int64, those above its range uint64, bytes a string, and maps map[string]any. An integer that does not fit its variable is an error, and so is
// a panic of a type's own decoder.
func Unmarshal(b []byte, into any) (err error) {
	if readInto(b, into) {
		return nil
	}
	if t := reflect.TypeOf(into); t != nil && t.Kind() == reflect.Pointer {
		if err := checkIntegers(t.Elem(), b); err != nil {
			return err
		}
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decoding a %T panicked: %v", into, r)
		}
	}()
	r := bytes.NewReader(b)
	dec := msgpack.GetDecoder()
	defer msgpack.PutDecoder(dec)
	dec.ResetReader(r)
	dec.SetCustomStructTag("json")
	dec.UseLooseInterfaceDecoding(true)
	if err := dec.Decode(into); err != nil {
		return err
	}
	if n := r.Len(); n > 0 {
		return fmt.Errorf("%d bytes after the value", n)
	}
	signed(reflect.ValueOf(into), 0)
	return nil
}

// readInt reads b if it is nothing but an integer as appendInt writes it; all else is left to the decoder.
func readInt(b []byte) (int64, bool) {
	if len(b) == 1 && (b[0] < 0x80 || b[0] >= 0xe0) {
		return int64(int8(b[0])), true
	}
	if len(b) < 2 {
		return 0, false
	}
	// 0xcc … 0xcf are unsigned, 0xd0 … 0xd3 signed, of 1, 2, 4 and 8 bytes.
	width := 1 << (b[0] & 3)
	if b[0] < 0xcc || b[0] > 0xd3 || len(b) != 1+width {
		return 0, false
	}
	var u uint64
	for _, c := range b[1:] {
		u = u<<8 | uint64(c)
	}
	if b[0] >= 0xd0 { // signed: extend
		shift := 64 - 8*width
		return int64(u<<shift) >> shift, true
	}
	return int64(u), int64(u) >= 0
}

func encode(e Encoding, v any) ([]byte, error) {
	if e == EncodingJSON {
		return json.Marshal(v)
	}
	return Marshal(v)
}

func decode(e Encoding, b []byte, into any) error {
	switch e {
	case EncodingJSON:
		return json.Unmarshal(b, into)
	case EncodingMsgpack:
		return Unmarshal(b, into)
	}
	return fmt.Errorf("its encoding has the number %d: this version knows msgpack (1) and JSON (2)", e)
}
