package actor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Raw is a value that is encoded already, as Marshal encodes: one msgpack value. Put stores its bytes as they are, and so does Marshal wherever
// it stands; a Get into a *Raw copies what is stored. No bytes stand for msgpack's nil, in both directions. What is not exactly one msgpack value, or is
// nested deeper than 100, is refused with ErrBadArgument. In JSON it is base64, like any []byte.
type Raw []byte

// EncodeMsgpack is for the encoder.
func (r Raw) EncodeMsgpack(enc *msgpack.Encoder) error {
	if len(r) == 0 {
		return enc.EncodeNil()
	}
	if err := wellFormed(r); err != nil {
		return fmt.Errorf("a Raw is not msgpack: %w", err)
	}
	return enc.Encode(msgpack.RawMessage(r))
}

// DecodeMsgpack is for the decoder.
func (r *Raw) DecodeMsgpack(dec *msgpack.Decoder) error {
	b, err := dec.DecodeRaw()
	*r = Raw(b)
	return err
}

// Raw is a copy of the encoded value.
func (v Value) Raw() Raw { return bytes.Clone(v.raw) }

var errEndsTooSoon = errors.New("it ends too soon")

// wellFormed checks that b is one msgpack value.
func wellFormed(b []byte) error {
	var left [maxNesting + 1]uint64 // values to come, per depth
	left[0] = 1
	for depth := 0; ; {
		for left[depth] == 0 {
			if depth == 0 {
				if len(b) > 0 {
					return fmt.Errorf("%d bytes after the value", len(b))
				}
				return nil
			}
			depth--
		}
		left[depth]--
		items, size, err := head(b)
		switch {
		case err != nil:
			return err
		case size > uint64(len(b)) || items > uint64(len(b))-size: // each item takes a byte
			return errEndsTooSoon
		}
		if b = b[size:]; items == 0 {
			continue
		}
		if depth == maxNesting {
			return fmt.Errorf("it is nested deeper than %d", maxNesting)
		}
		depth++
		left[depth] = items
	}
}

// head looks at one value: how many values follow inside it, and how many bytes it takes without them.
func head(b []byte) (items, size uint64, err error) {
	if len(b) == 0 {
		return 0, 0, errEndsTooSoon
	}
	c := b[0]
	switch {
	case c < 0x80 || c >= 0xe0:
		return 0, 1, nil
	case c < 0x90:
		return 2 * uint64(c&15), 1, nil
	case c < 0xa0:
		return uint64(c & 15), 1, nil
	case c < 0xc0:
		return 0, 1 + uint64(c&31), nil
	case c == 0xc1:
		return 0, 0, errors.New("it has a byte 0xc1, which means nothing")
	case c < 0xc4:
		return 0, 1, nil
	}
	l := lengths[c-0xc4]
	if len(b) <= l.width {
		return 0, 0, errEndsTooSoon
	}
	var wide [8]byte
	copy(wide[8-l.width:], b[1:1+l.width])
	n := binary.BigEndian.Uint64(wide[:])
	return n * l.items, 1 + uint64(l.width) + n*l.bytes + l.more, nil
}

// lengths says, for the bytes 0xc4 to 0xdf, how wide the length after them is, what it counts, and how many bytes there are besides.
var lengths = [...]struct {
	width              int
	items, bytes, more uint64
}{
	{1, 0, 1, 0}, {2, 0, 1, 0}, {4, 0, 1, 0}, // binary
	{1, 0, 1, 1}, {2, 0, 1, 1}, {4, 0, 1, 1}, // extensions, with their type
	{0, 0, 0, 4}, {0, 0, 0, 8}, // floats
	{0, 0, 0, 1}, {0, 0, 0, 2}, {0, 0, 0, 4}, {0, 0, 0, 8}, // unsigned
	{0, 0, 0, 1}, {0, 0, 0, 2}, {0, 0, 0, 4}, {0, 0, 0, 8}, // signed
	{0, 0, 0, 2}, {0, 0, 0, 3}, {0, 0, 0, 5}, {0, 0, 0, 9}, {0, 0, 0, 17}, // extensions of fixed size
	{1, 0, 1, 0}, {2, 0, 1, 0}, {4, 0, 1, 0}, // strings
	{2, 1, 0, 0}, {4, 1, 0, 0}, // arrays
	{2, 2, 0, 0}, {4, 2, 0, 0}, // maps
}
