package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of Skim.
var (
	ErrTooDeep   = fmt.Errorf("transport: msgpack nested deeper than %d", MaxDepth)
	ErrTruncated = errors.New("transport: msgpack ends too soon, or declares more than there is")
	ErrTrailing  = errors.New("transport: bytes after the msgpack value")
	ErrBadType   = errors.New("transport: msgpack type that is not allowed here")
)

// Skim checks that b is exactly one msgpack value that is safe to decode: depth at most MaxDepth, every declared length and count
// within the bytes left, map keys that can be hashed, no extension but the timestamp, nothing after it. Decoders of msgpack allocate what
// a header declares before they look whether it is there; five bytes can end a process. It allocates nothing.
func Skim(b []byte) error {
	if flat(b) {
		return nil
	}
	return skim(b)
}

// flat reports whether b is one value that needs no stack to be seen through: most are.
func flat(b []byte) bool {
	depth := 0
	for left := uint64(1); left > 0; left-- {
		items, skip, isMap, err := skimHead(b, false)
		if err != nil || skip > uint64(len(b)) {
			return false
		}
		if b = b[skip:]; items > 0 {
			if depth++; isMap || left > 1 || depth > MaxDepth || items > uint64(len(b)) {
				return false
			}
			left += items // an array, and it is the last value: what follows is in it
		}
	}
	return len(b) == 0
}

func skim(b []byte) error {
	var stack [MaxDepth + 1]struct {
		left  uint64 // values to come
		isMap bool
	}
	depth := 0
	stack[0].left = 1
	for {
		for stack[depth].left == 0 {
			if depth == 0 {
				if len(b) > 0 {
					return ErrTrailing
				}
				return nil
			}
			depth--
		}
		top := &stack[depth]
		isKey := top.isMap && top.left%2 == 0
		top.left--
		items, skip, isMap, err := skimHead(b, isKey)
		if err != nil {
			return err
		}
		if skip > uint64(len(b)) {
			return ErrTruncated
		}
		b = b[skip:]
		if items == 0 {
			continue
		}
		if items > uint64(len(b)) { // every value takes a byte
			return ErrTruncated
		}
		if depth == MaxDepth {
			return ErrTooDeep
		}
		depth++
		stack[depth].left, stack[depth].isMap = items, isMap
	}
}

// skimHead looks at one value: how many bytes it takes by itself, and how many values follow inside it.
func skimHead(b []byte, isKey bool) (items, skip uint64, isMap bool, err error) {
	if len(b) == 0 {
		return 0, 0, false, ErrTruncated
	}
	c := b[0]
	switch {
	case c <= 0x7f || c >= 0xe0:
		return 0, 1, false, nil
	case c <= 0x8f:
		return container(uint64(c&0x0f)*2, 1, true, isKey)
	case c <= 0x9f:
		return container(uint64(c&0x0f), 1, false, isKey)
	case c <= 0xbf:
		return 0, 1 + uint64(c&0x1f), false, nil
	}
	switch c {
	case 0xc0, 0xc2, 0xc3:
		return 0, 1, false, nil
	case 0xcc, 0xd0:
		return 0, 2, false, nil
	case 0xcd, 0xd1:
		return 0, 3, false, nil
	case 0xca, 0xce, 0xd2:
		return 0, 5, false, nil
	case 0xcb, 0xcf, 0xd3:
		return 0, 9, false, nil
	case 0xd6: // timestamp 32
		return timestamp(b, 1, 4, isKey)
	case 0xd7: // timestamp 64
		return timestamp(b, 1, 8, isKey)
	case 0xc7: // timestamp 96
		if len(b) < 2 || b[1] != 12 {
			return 0, 0, false, ErrBadType
		}
		return timestamp(b, 2, 12, isKey)
	}
	n, head, ok := declared(b)
	if !ok {
		return 0, 0, false, ErrTruncated
	}
	switch c {
	case 0xd9, 0xda, 0xdb:
		return 0, head + n, false, nil
	case 0xc4, 0xc5, 0xc6:
		if isKey {
			return 0, 0, false, ErrBadType
		}
		return 0, head + n, false, nil
	case 0xdc, 0xdd:
		return container(n, head, false, isKey)
	case 0xde, 0xdf:
		return container(n*2, head, true, isKey)
	}
	return 0, 0, false, ErrBadType
}

func container(items, head uint64, isMap, isKey bool) (uint64, uint64, bool, error) {
	if isKey {
		return 0, 0, false, ErrBadType
	}
	return items, head, isMap, nil
}

func timestamp(b []byte, at int, n uint64, isKey bool) (uint64, uint64, bool, error) {
	if len(b) <= at {
		return 0, 0, false, ErrTruncated
	}
	if b[at] != 0xff || isKey {
		return 0, 0, false, ErrBadType
	}
	return 0, uint64(at) + 1 + n, false, nil
}

// declared reads the length that follows the first byte of a str, bin, array or map.
func declared(b []byte) (n, head uint64, ok bool) {
	switch b[0] {
	case 0xc4, 0xd9:
		if len(b) >= 2 {
			return uint64(b[1]), 2, true
		}
	case 0xc5, 0xda, 0xdc, 0xde:
		if len(b) >= 3 {
			return uint64(binary.BigEndian.Uint16(b[1:])), 3, true
		}
	case 0xc6, 0xdb, 0xdd, 0xdf:
		if len(b) >= 5 {
			return uint64(binary.BigEndian.Uint32(b[1:])), 5, true
		}
	default:
		return 0, 1, true
	}
	return 0, 0, false
}
