package nodetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/memberlist"

	"github.com/ringfence/ringfence/node"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/transport/inmem"
)

// machine is what one node stands on: a host of the network, and a disk.
type machine struct {
	host   *inmem.Host
	disk   *vfs.MemFS
	off    chan struct{} // closed when the power fails
	dark   chan struct{} // closed when all of that is done
	killed atomic.Bool   // the power has failed
	fuse   fuse
	log    *logBuffer
}

const (
	listenPort = "7420"
	gossipPort = "7421"
)

func newMachine(h *inmem.Host) *machine {
	m := &machine{host: h, disk: vfs.NewCrashableMem(), log: &logBuffer{}}
	m.ready()
	return m
}

func (m *machine) listen() string { return net.JoinHostPort(m.host.IP(), listenPort) }
func (m *machine) gossip() string { return net.JoinHostPort(m.host.IP(), gossipPort) }

func (m *machine) ready() { m.off, m.dark = make(chan struct{}), make(chan struct{}) }

// lose is a loss of power: the network first, so that nothing is acknowledged that the disk does not keep; then the disk, which keeps what was
// synced, and of the rest what cfg says; then whatever runs, and last what it still had open. Power is lost once.
func (m *machine) lose(cfg vfs.CrashCloneCfg) {
	if !m.killed.CompareAndSwap(false, true) {
		return
	}
	m.host.Unplug()
	m.disk = m.disk.CrashClone(cfg)
	close(m.off)
	m.host.PowerOff()
	close(m.dark)
}

// restore switches the machine on again.
func (m *machine) restore() {
	<-m.dark
	m.host.PowerOn()
	m.killed.Store(false)
	m.ready()
}

// A small database: each fsync of the disk in memory copies the whole file.
const (
	memTableBytes = 1 << 20
	cacheBytes    = 8 << 20
)

// under is the machine for one run of a node.
func (m *machine) under() *node.Machine {
	began := time.Now()
	return &node.Machine{
		Listen: m.host.Listen,
		Dial:   m.host.Dial,
		Gossip: func(addr string) (memberlist.NodeAwareTransport, error) { return newGossip(m.host, addr) },
		Store:  store.Options{FS: m.fs(), MemTableBytes: memTableBytes, CacheBytes: cacheBytes, Fatal: m.fatal},
		Now:    func() time.Duration { return time.Since(began) },
		Off:    m.off,
	}
}

// fatal is called when the engine is about to end the process, which is the test.
func (m *machine) fatal(msg string) {
	fmt.Fprintf(os.Stderr, "nodetest: the database of %s: %s\n%s", m.host.IP(), msg, m.log)
}

// gossip carries memberlist's packets and streams over the network in memory.
type gossip struct {
	host    *inmem.Host
	ln      net.Listener
	pc      net.PacketConn
	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // ends with Shutdown
	stop    context.CancelFunc
}

func newGossip(h *inmem.Host, addr string) (*gossip, error) {
	ln, err := h.Listen(addr)
	if err != nil {
		return nil, err
	}
	pc, err := h.ListenPacket(addr)
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	g := &gossip{host: h, ln: ln, pc: pc, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
	g.ctx, g.stop = context.WithCancel(context.Background())
	go g.read()
	go g.accept()
	return g, nil
}

func (g *gossip) read() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := g.pc.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case g.packets <- p:
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *gossip) accept() {
	for {
		nc, err := g.ln.Accept()
		if err != nil {
			return // closed
		}
		select {
		case g.streams <- nc:
		case <-g.ctx.Done():
			_ = nc.Close()
			return
		}
	}
}

func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossip) StreamCh() <-chan net.Conn           { return g.streams }

// FinalAdvertiseAddr is where the others find this node: where it listens, unless the configuration says otherwise.
func (g *gossip) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	here := g.ln.Addr().(*net.TCPAddr)
	if ip == "" {
		return here.IP, here.Port, nil
	}
	if a := net.ParseIP(ip); a != nil {
		return a, port, nil
	}
	return nil, 0, fmt.Errorf("nodetest: %q is not an address to advertise", ip)
}

func (g *gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (g *gossip) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := net.ResolveUDPAddr("udp", a.Addr) // an address by number: nobody is asked
	if err == nil {
		_, err = g.pc.WriteTo(b, to)
	}
	return time.Now(), err
}

func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (g *gossip) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(g.ctx, timeout)
	defer cancel()
	return g.host.Dial(ctx, a.Addr)
}

// Shutdown may be called more than once.
func (g *gossip) Shutdown() error {
	g.stop()
	_, _ = g.ln.Close(), g.pc.Close() // closed already if the power failed
	return nil
}
