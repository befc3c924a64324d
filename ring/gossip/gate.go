package gossip

import (
	"log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// Gate stands between gossip and the network, so that tests and demonstrations can cut a node off. Its methods are called from many
// goroutines.
type Gate interface {
	Open() bool                // whether packets pass; else they are dropped, both ways
	Conn(nc net.Conn) net.Conn // puts a stream behind the gate
}

// gated is memberlist's own transport behind a gate.
type gated struct {
	*memberlist.NetTransport
	gate    Gate
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
}

// newGated binds as memberlist would, and tells mc which port it got.
func newGated(mc *memberlist.Config, gate Gate, logger *log.Logger) (*gated, error) {
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{mc.BindAddr}, BindPort: mc.BindPort, Logger: logger})
	if err != nil {
		return nil, err
	}
	if mc.BindPort == 0 {
		mc.BindPort = nt.GetAutoBindPort()
		if mc.AdvertisePort == 0 {
			mc.AdvertisePort = mc.BindPort
		}
	}
	t := &gated{NetTransport: nt, gate: gate, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{})}
	go t.pass()
	return t, nil
}

// pass takes from the network what arrives, until Shutdown.
func (t *gated) pass() {
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if !t.gate.Open() {
				continue
			}
			select {
			case t.packets <- p:
			case <-t.done:
				return
			}
		case nc := <-t.NetTransport.StreamCh():
			select {
			case t.streams <- t.gate.Conn(nc):
			case <-t.done:
				_ = nc.Close()
				return
			}
		case <-t.done:
			return
		}
	}
}

func (t *gated) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *gated) StreamCh() <-chan net.Conn           { return t.streams }

func (t *gated) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *gated) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if !t.gate.Open() {
		return time.Now(), nil // lost on the way, which the sender of a packet does not hear
	}
	return t.NetTransport.WriteToAddress(b, a)
}

func (t *gated) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout connects even while the gate is shut: the stream is silent then, which memberlist's own time limits end.
func (t *gated) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	nc, err := t.NetTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	return t.gate.Conn(nc), nil
}

func (t *gated) Shutdown() error {
	err := t.NetTransport.Shutdown()
	close(t.done)
	return err
}
