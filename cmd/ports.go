package cmd

import (
	"fmt"
	"net"
	"strconv"

	"github.com/ringfence/ringfence/transport/freeport"
)

// Each node of a local cluster has its ports side by side: --listen, --gossip, --http.
const (
	portStep   = 10
	host       = "127.0.0.1"
	basePort   = 7420
	maxLocal   = 32 // nodes of one local cluster
	gossipPort = 1  // after --listen
	httpPort   = 2
)

// nodeAddrs are the addresses of one node.
type nodeAddrs struct{ listen, gossip, http string }

// localAddrs gives n nodes their addresses: from base on, or any free ones if base is 0. Every port is tried first, so that a
// port in use is one clear error and not that of one process among several.
func localAddrs(n, base int) ([]nodeAddrs, error) {
	if base == 0 {
		return freeAddrs(n)
	}
	addrs := make([]nodeAddrs, n)
	for i := range addrs {
		port := base + portStep*i
		addrs[i] = nodeAddrs{listen: hostPort(port), gossip: hostPort(port + gossipPort), http: hostPort(port + httpPort)}
		if err := tryPorts(i+1, addrs[i]); err != nil {
			return nil, err
		}
	}
	return addrs, nil
}

func hostPort(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func tryPorts(number int, a nodeAddrs) error {
	l, err := net.Listen("tcp", a.listen)
	if err != nil {
		return portError(number, "--listen", a.listen, err)
	}
	defer l.Close()
	h, err := net.Listen("tcp", a.http)
	if err != nil {
		return portError(number, "--http", a.http, err)
	}
	defer h.Close()
	release, err := bindGossip(a.gossip)
	if err != nil {
		return portError(number, "--gossip", a.gossip, err)
	}
	release()
	return nil
}

func portError(number int, flag, addr string, err error) error {
	return fmt.Errorf("node %d cannot have %s as its %s: stop what uses that port, or give --base-port another number: %w", number, addr, flag, err)
}

// bindGossip takes an address for TCP and UDP both.
func bindGossip(addr string) (release func(), err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		l.Close()
		return nil, err
	}
	return func() { l.Close(); p.Close() }, nil
}

// freeAddrs takes ports that nobody else is given until the nodes have bound them.
func freeAddrs(n int) ([]nodeAddrs, error) {
	addrs := make([]nodeAddrs, n)
	for i := range addrs {
		for _, a := range []*string{&addrs[i].listen, &addrs[i].gossip, &addrs[i].http} {
			var err error
			if *a, err = freeport.Addr(); err != nil {
				return nil, err
			}
		}
	}
	return addrs, nil
}
