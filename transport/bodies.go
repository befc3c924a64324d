package transport

import (
	"math"

	"github.com/ringfence/ringfence/ring"
)

// Limits of the fields of bodies, in bytes.
const (
	MaxClass   = 64
	MaxKey     = 1024
	MaxMethod  = 128
	MaxText    = 64 << 10
	MaxChain   = 64
	maxChainID = MaxClass + 1 + MaxKey
)

// AppendHello appends the body of a Hello.
func AppendHello(b []byte, h *Hello) []byte {
	b = appendArray(b, 7)
	b = appendUint(b, uint64(h.MinVersion))
	b = appendUint(b, uint64(h.MaxVersion))
	b = appendUint(b, uint64(h.Purpose))
	b = appendBytes(b, h.Cluster[:])
	b = appendUint(b, uint64(h.Node))
	b = appendUint(b, uint64(h.Boot))
	return appendUint(b, uint64(h.WantNode))
}

// DecodeHello reads the body of a Hello.
func DecodeHello(b []byte, h *Hello) error {
	r := read("hello", b)
	h.MinVersion = uint8(r.uint("lowest version", math.MaxUint8))
	h.MaxVersion = uint8(r.uint("highest version", math.MaxUint8))
	h.Purpose = Purpose(r.uint("purpose", math.MaxUint8))
	h.Cluster = r.cluster()
	h.Node = ring.NodeID(r.uint("node", math.MaxUint64))
	h.Boot = ring.BootID(r.uint("boot", math.MaxUint64))
	h.WantNode = ring.NodeID(r.uint("wanted node", math.MaxUint64))
	return r.end()
}

func (r *reader) cluster() (c ring.ClusterID) {
	if r.left == 0 { // an older version has no such field
		return c
	}
	v := r.bytes("cluster", len(c))
	if len(v) != len(c) {
		r.fail("a cluster ID of %d bytes", len(v))
	}
	copy(c[:], v)
	return c
}

// AppendHelloReply appends the body of a HelloReply.
func AppendHelloReply(b []byte, h *HelloReply) []byte {
	b = appendArray(b, 5)
	b = appendUint(b, uint64(h.Version))
	b = appendBytes(b, h.Cluster[:])
	b = appendUint(b, uint64(h.Node))
	b = appendUint(b, uint64(h.Boot))
	return appendString(b, h.Error)
}

// DecodeHelloReply reads the body of a HelloReply.
func DecodeHelloReply(b []byte, h *HelloReply) error {
	r := read("hello reply", b)
	h.Version = uint8(r.uint("version", math.MaxUint8))
	h.Cluster = r.cluster()
	h.Node = ring.NodeID(r.uint("node", math.MaxUint64))
	h.Boot = ring.BootID(r.uint("boot", math.MaxUint64))
	h.Error = r.string("error", MaxText)
	return r.end()
}

// AppendCall appends the body of a Call.
func AppendCall(b []byte, c *Call) []byte {
	b = appendArray(b, 10)
	b = appendString(b, c.Class)
	b = appendString(b, c.Key)
	b = appendString(b, c.Method)
	b = appendUint(b, uint64(c.Encoding))
	b = appendBytes(b, c.Arg)
	b = appendUint(b, c.TimeoutMillis)
	b = appendUint(b, c.Stream)
	b = appendUint(b, c.Generation)
	b = appendArray(b, len(c.Chain))
	for _, s := range c.Chain {
		b = appendString(b, s)
	}
	return appendString(b, c.Idempotent)
}

// DecodeCall reads the body of a Call. Arg aliases b.
func DecodeCall(b []byte, c *Call) error {
	r := read("call", b)
	c.Class = r.string("class", MaxClass)
	c.Key = r.string("key", MaxKey)
	c.Method = r.string("method", MaxMethod)
	c.Encoding = Encoding(r.uint("encoding", uint64(EncodingJSON)))
	c.Arg = r.bytes("argument", MaxCallBody)
	c.TimeoutMillis = r.uint("timeout", math.MaxInt64/1_000_000)
	c.Stream = r.uint("stream", math.MaxUint64)
	c.Generation = r.uint("generation", math.MaxUint64)
	c.Chain = r.strings("chain", MaxChain, maxChainID)
	c.Idempotent = r.string("idempotency key", MaxKey)
	return r.end()
}

// AppendReply appends the body of a Reply.
func AppendReply(b []byte, p *Reply) []byte {
	b = appendArray(b, 10)
	b = appendUint(b, uint64(p.Code))
	b = appendUint(b, uint64(p.Outcome))
	b = appendUint(b, uint64(p.Flags))
	b = appendUint(b, uint64(p.Encoding))
	b = appendBytes(b, p.Result)
	b = appendString(b, p.App)
	b = appendString(b, p.Message)
	b = appendUint(b, uint64(p.Epoch))
	b = appendUint(b, p.Token)
	return appendUint(b, uint64(p.Hint))
}

// DecodeReply reads the body of a Reply. Result aliases b.
func DecodeReply(b []byte, p *Reply) error {
	r := read("reply", b)
	p.Code = uint16(r.uint("code", math.MaxUint16))
	p.Outcome = uint8(r.uint("outcome", math.MaxUint8))
	p.Flags = uint8(r.uint("flags", math.MaxUint8))
	p.Encoding = Encoding(r.uint("encoding", uint64(EncodingJSON)))
	p.Result = r.bytes("result", MaxCallBody)
	p.App = r.string("application code", MaxText)
	p.Message = r.string("message", MaxText)
	p.Epoch = ring.Epoch(r.uint("epoch", math.MaxUint64))
	p.Token = r.uint("token", math.MaxUint64)
	p.Hint = ring.NodeID(r.uint("hint", math.MaxUint64))
	return r.end()
}

// AppendRequest appends the body of a Request.
func AppendRequest(b []byte, q *Request) []byte {
	return appendBytes(appendString(appendArray(b, 2), q.Name), q.Body)
}

// DecodeRequest reads the body of a Request. Body aliases b.
func DecodeRequest(b []byte, q *Request) error {
	r := read("request", b)
	q.Name = r.string("name", MaxMethod)
	q.Body = r.bytes("body", MaxCallBody)
	return r.end()
}

// AppendResponse appends the body of a Response.
func AppendResponse(b []byte, p *Response) []byte {
	return appendBytes(appendString(appendArray(b, 2), p.Error), p.Body)
}

// DecodeResponse reads the body of a Response. Body aliases b.
func DecodeResponse(b []byte, p *Response) error {
	r := read("response", b)
	p.Error = r.string("error", MaxText)
	p.Body = r.bytes("body", MaxCallBody)
	return r.end()
}

// AppendError appends the body of an ErrorBody.
func AppendError(b []byte, e *ErrorBody) []byte { return appendString(appendArray(b, 1), e.Message) }

// DecodeError reads the body of an ErrorBody.
func DecodeError(b []byte, e *ErrorBody) error {
	r := read("error", b)
	e.Message = r.string("message", MaxText)
	return r.end()
}

// Clip shortens a text to what a body may carry.
func Clip(s string) string {
	const limit = MaxText - 16
	if len(s) <= limit {
		return s
	}
	for i := limit; ; i-- {
		if s[i]&0xc0 != 0x80 { // not within a rune
			return s[:i] + "…"
		}
	}
}
