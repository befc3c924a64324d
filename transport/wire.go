package transport

import "github.com/ringfence/ringfence/ring"

// Kind says what a frame's body is. Numbers only grow; one that is not known is answered with KindError and the connection stays.
type Kind uint8

const (
	KindHello      Kind = 1  // first frame of a connection, body Hello
	KindHelloReply Kind = 2  // body HelloReply
	KindCall       Kind = 3  // body Call
	KindReply      Kind = 4  // body Reply; answers KindCall
	KindRaft       Kind = 5  // body: raft messages of many groups, opaque here; no answer
	KindRequest    Kind = 6  // body Request: one named question (ring, status, formation …), answered by KindResponse
	KindResponse   Kind = 7  // body Response
	KindChunk      Kind = 8  // bulk data, opaque here; answered by KindResponse
	KindError      Kind = 9  // body ErrorBody: the frame with this ID was not understood; the text names the remedy
	KindGoAway     Kind = 10 // the peer is stopping: start nothing new on this connection, and close it when all is answered. No body, no answer
)

// Purpose separates connections so that one kind of traffic never waits behind another.
type Purpose uint8

const (
	PurposeCalls Purpose = 1
	PurposeRaft  Purpose = 2
	PurposeBulk  Purpose = 3
)

// Limits of one frame's body.
const (
	MaxHelloBody = 64 << 10
	MaxCallBody  = 32 << 20
	MaxRaftBody  = 8<<20 + 64<<10 // the largest batch, 8 MiB, with what Raft wraps around it
	MaxBulkBody  = MaxRaftBody    // a snapshot's chunk may be one key with its value, which one batch wrote
	MaxDepth     = 64
)

// Header goes before every body, fixed size, hand-coded, little endian:
// length u32 ‖ crc32c u32 ‖ version u8 ‖ kind u8 ‖ flags u16 ‖ id u64 ‖ epoch u64. The checksum covers all after it, body included.
type Header struct {
	Kind  Kind
	Flags uint16
	ID    uint64     // answers carry the ID of what they answer
	Epoch ring.Epoch // the newest ring the sender knows
}

// Hello opens a connection. A client has no Node and no Boot. Cluster is zero for who does not know it yet.
type Hello struct {
	MinVersion, MaxVersion uint8
	Purpose                Purpose
	Cluster                ring.ClusterID
	Node                   ring.NodeID
	Boot                   ring.BootID
	WantNode               ring.NodeID // who the dialer thinks it reaches; 0 = anyone. A mismatch is refused by name.
}

// HelloReply accepts, or refuses with an Error text that names the remedy (then the connection closes).
type HelloReply struct {
	Version uint8
	Cluster ring.ClusterID
	Node    ring.NodeID
	Boot    ring.BootID
	Error   string
}

// Encoding tags the bytes of an argument or a result.
type Encoding uint8

const (
	EncodingNone    Encoding = 0 // no argument, no result
	EncodingMsgpack Encoding = 1
	EncodingJSON    Encoding = 2
)

// Call is one call of a method. Body: a msgpack array of the fields in this order. Unknown trailing elements are skipped.
type Call struct {
	Class, Key, Method string
	Encoding           Encoding
	Arg                []byte // aliases the frame's body when decoded
	TimeoutMillis      uint64 // what was left of the deadline when sent; 0 = none
	// Stream and Generation keep the order of one Ref: calls of a stream are sent in order on one connection. Once the server
	// refused one of them (did not run), it refuses all later ones of that connection, stream and generation, until
	// the client has heard all answers and goes on with a higher generation. The same holds once one with an idempotency key came to an error
	// that is not the application's: it will be sent again, and may then run for the first time.
	Stream     uint64
	Generation uint64
	Chain      []string // objects that wait for this call, outermost first
	Idempotent string   // idempotency key, empty for none: an owner that has answered a call with it before says the same again
}

// Reply answers a call. Body: a msgpack array of the fields in this order.
type Reply struct {
	Code     uint16 // actor.Code; 0 = success
	Outcome  uint8  // actor.Outcome
	Flags    uint8  // Flag…
	Encoding Encoding
	Result   []byte // aliases the frame's body when decoded
	App      string
	Message  string
	Epoch    ring.Epoch // of the owner's token; 0 if not owner
	Token    uint64
	// Hint names the node to ask instead, 0 if not known; with it come the token and epoch under which it owned the shard.
	Hint ring.NodeID
}

// Flags of a Reply.
const (
	FlagRetryable  uint8 = 1 << 0
	FlagOverloaded uint8 = 1 << 1
	FlagRemote     uint8 = 1 << 2
	FlagReset      uint8 = 1 << 3
)

// Request is one named question between processes outside the hot path. Body is msgpack, its shape belongs to the name.
type Request struct {
	Name string
	Body []byte
}

// Response answers a Request or a chunk. Error is empty on success.
type Response struct {
	Error string
	Body  []byte
}

// ErrorBody goes with KindError.
type ErrorBody struct{ Message string }
