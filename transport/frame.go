package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ringfence/ringfence/ring"
)

// HeaderSize is the length of what goes before a body. Layout, little endian:
//
//	0 length u32 of the body ‖ 4 crc32c u32 of all that follows ‖ 8 version u8 ‖ 9 kind u8 ‖ 10 flags u16 ‖ 12 id u64 ‖ 20 epoch u64
const HeaderSize = 28

// FrameVersion is the version of the frame's layout.
const FrameVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of a frame. After any of them the connection is of no use: where the next frame begins is not known.
var (
	ErrFrameVersion = errors.New("transport: frame of an unknown version")
	ErrFrameTooLong = errors.New("transport: frame is too long")
	ErrChecksum     = errors.New("transport: frame's checksum does not match")
)

// AppendHeader appends a frame's header; the body is appended after it, then FinishFrame makes length and checksum right.
func AppendHeader(dst []byte, h Header) []byte {
	var b [HeaderSize]byte
	b[8], b[9] = FrameVersion, byte(h.Kind)
	binary.LittleEndian.PutUint16(b[10:], h.Flags)
	binary.LittleEndian.PutUint64(b[12:], h.ID)
	binary.LittleEndian.PutUint64(b[20:], uint64(h.Epoch))
	return append(dst, b[:]...)
}

// FinishFrame patches length and checksum into a frame that AppendHeader began; frame holds it and nothing else.
func FinishFrame(frame []byte) {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-HeaderSize))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(frame[8:], castagnoli))
}

// AppendFrame appends a whole frame; body is copied.
func AppendFrame(dst []byte, h Header, body []byte) []byte {
	start := len(dst)
	dst = append(AppendHeader(dst, h), body...)
	FinishFrame(dst[start:])
	return dst
}

// FrameSize is the length of the whole frame whose header is given.
func FrameSize(header []byte) int { return HeaderSize + int(binary.LittleEndian.Uint32(header)) }

// growStep bounds what is allocated ahead of the bytes that have arrived.
const growStep = 64 << 10

// ReadFrame reads one frame. limit says how long the body of a kind may be; 0 refuses the kind. The body is put into buf if
// that is large enough, else into new memory, which grows as bytes arrive and not as the header promises. io.EOF comes only between frames.
func ReadFrame(br *bufio.Reader, limit func(Kind) int, buf []byte) (Header, []byte, error) {
	var h Header
	b, err := br.Peek(HeaderSize)
	if err != nil {
		if len(b) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return h, nil, err
	}
	if b[8] != FrameVersion {
		return h, nil, fmt.Errorf("%w %d; this side speaks version %d", ErrFrameVersion, b[8], FrameVersion)
	}
	h = Header{Kind: Kind(b[9]), Flags: binary.LittleEndian.Uint16(b[10:]), ID: binary.LittleEndian.Uint64(b[12:]),
		Epoch: ring.Epoch(binary.LittleEndian.Uint64(b[20:]))}
	length, sum := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if l := limit(h.Kind); int64(length) > int64(l) {
		return h, nil, fmt.Errorf("%w: kind %d with %d bytes, at most %d are allowed here", ErrFrameTooLong, h.Kind, length, l)
	}
	crc := crc32.Checksum(b[8:HeaderSize], castagnoli)
	if _, err := br.Discard(HeaderSize); err != nil {
		return h, nil, err
	}
	body, err := readBody(br, int(length), buf)
	if err != nil {
		return h, nil, err
	}
	if crc32.Update(crc, castagnoli, body) != sum {
		return h, nil, ErrChecksum
	}
	return h, body, nil
}

func readBody(br *bufio.Reader, n int, buf []byte) ([]byte, error) {
	if cap(buf) >= n {
		buf = buf[:n]
		_, err := io.ReadFull(br, buf)
		return buf, unexpected(err)
	}
	buf = make([]byte, min(n, growStep))
	if _, err := io.ReadFull(br, buf); err != nil {
		return nil, unexpected(err)
	}
	for len(buf) < n {
		have := len(buf)
		step := min(n-have, have) // at most doubles what has arrived
		grown := make([]byte, have+step)
		copy(grown, buf)
		if _, err := io.ReadFull(br, grown[have:]); err != nil {
			return nil, unexpected(err)
		}
		buf = grown
	}
	return buf, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// BodyLimit is the longest body of a kind on a connection of a purpose; 0 means that the kind has no business there.
func BodyLimit(p Purpose, k Kind) int {
	switch k {
	case KindHello, KindHelloReply, KindError, KindGoAway:
		return MaxHelloBody
	case KindRaft:
		if p == PurposeRaft {
			return MaxRaftBody
		}
	case KindChunk:
		if p == PurposeBulk {
			return MaxBulkBody
		}
	case KindCall, KindReply:
		if p == PurposeCalls {
			return MaxCallBody
		}
	default: // requests, and kinds of later versions, which are answered with KindError: they must not end the connection
		switch {
		case p == PurposeBulk:
			return MaxBulkBody
		case p == PurposeCalls:
			return MaxCallBody
		case p == PurposeRaft && k > KindGoAway:
			return MaxRaftBody
		}
	}
	return 0
}
