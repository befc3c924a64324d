// Package tcp carries frames over TCP: connections that multiplex and pipeline, a server with a handshake, and links that stay up.
//
// A [Conn] has one goroutine that reads and one that writes. Senders append frames to the connection's buffer and go on; the writer, which lets
// others who are about to send go first, takes all that has gathered with one system call. The reader may do with what it reads whatever it likes:
// what is sent while it is at work on frames that came together leaves in one piece afterwards, by its own hand, and if it has to wait, or takes long,
// another takes its place ([Conn.Yield]). Every buffer is bounded: a sender waits for room ([Conn.Send]) or is
// refused ([Conn.TrySend]). Three kinds of traffic use connections of their own (transport.Purpose), so none waits behind another.
//
// A server stops in two steps: [Server.GoAway] tells the callers to start nothing new, [Server.Quiesce] waits until they have closed.
//
// Whatever a peer sends, or fails to send, ends at worst its own connection: the handshake has 5 s, a frame that has begun 10 s, each
// 256 KiB written 10 s; bytes that are not acknowledged end it after 10 s, on a connection for Raft after 3 s (Linux).
package tcp
