package host

import (
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

// BenchmarkHeld is one event through the machine while many replies wait at the gate; the cost must not grow with them.
func BenchmarkHeld(b *testing.B) {
	for _, depth := range []uint64{1, 1000, 10_000} {
		b.Run(fmt.Sprint(depth), func(b *testing.B) {
			t := NewTenure(1)
			p := &Policy{Mailbox: 1 << 20, MailboxBytes: 1 << 30, HeldBytes: 1 << 30, IdleTicks: 1}
			id := actor.ID{Class: "C", Key: "k"}
			writes := []store.Write{{Key: []byte("n"), Value: []byte("x")}}
			var buf [8]Action
			for n := uint64(1); b.Loop(); n++ {
				ev := t.Deliver(buf[:0], &Event{Object: id, Bytes: 1}, p)[0].Event
				t.Ended(buf[:0], ev, End{Writes: writes})
				if n > depth {
					t.Applied(buf[:0], n-depth)
				}
			}
		})
	}
}
