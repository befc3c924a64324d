//go:build linux

package nemesis

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

const (
	subnet   = "10.199.1."
	maxNodes = 7
)

// network names what makeNetwork made: a hub with the bridge, a namespace for each node, and two for clients.
type network struct{ prefix string }

func (n network) hub() string       { return n.prefix + "hub" }
func (n network) node(i int) string { return fmt.Sprintf("%sn%d", n.prefix, i) } // i from 1
func (n network) client() string    { return n.prefix + "c1" }
func (n network) minority() string  { return n.prefix + "c2" } // of a client that is kept from most nodes
func nodeIP(i int) string           { return fmt.Sprintf("%s%d", subnet, 10+i) }
func (n network) members() (m []end) { // all but the hub
	for i := range maxNodes {
		m = append(m, end{n.node(i + 1), nodeIP(i + 1)})
	}
	return append(m, end{n.client(), subnet + "100"}, end{n.minority(), subnet + "101"})
}

type end struct{ ns, ip string }

// makeNetwork makes the namespaces, of names that no other process uses. What it made before an error is still to be removed.
func makeNetwork() (network, error) {
	n := network{fmt.Sprintf("rf%x-", os.Getpid())}
	cmds := []string{
		"ip netns add " + n.hub(),
		"ip -n " + n.hub() + " link add br0 type bridge",
		"ip -n " + n.hub() + " link set br0 up",
	}
	for i, m := range n.members() {
		port := fmt.Sprintf("p%d", i)
		cmds = append(cmds,
			"ip netns add "+m.ns,
			fmt.Sprintf("ip -n %s link add %s type veth peer name eth0 netns %s", n.hub(), port, m.ns),
			fmt.Sprintf("ip -n %s link set %s master br0 up", n.hub(), port),
			fmt.Sprintf("ip -n %s addr add %s/24 dev eth0", m.ns, m.ip),
			fmt.Sprintf("ip -n %s link set eth0 up", m.ns),
			fmt.Sprintf("ip -n %s link set lo up", m.ns))
	}
	for _, c := range cmds {
		if err := run(c, ""); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (n network) remove() error {
	errs := []error{run("ip netns del "+n.hub(), "")}
	for _, m := range n.members() {
		errs = append(errs, run("ip netns del "+m.ns, ""))
	}
	return errors.Join(errs...)
}

var ours = regexp.MustCompile(`(?m)^(rf([0-9a-f]+)-(?:hub|n[0-9]+|c[12]|memory))\b`)

// leftovers are the namespaces and control groups, of all that are named line by line, whose makers are gone: a killed run cannot remove its own.
func leftovers(list string, runs func(pid int) bool) (names []string) {
	for _, m := range ours.FindAllStringSubmatch(list, -1) {
		if pid, err := strconv.ParseInt(m[2], 16, 32); err == nil && !runs(int(pid)) {
			names = append(names, m[1])
		}
	}
	return names
}

// sweep removes what killed runs left, and says how much that was. The interfaces go with their namespaces, and the processes have gone
// with the runs.
func sweep() (int, error) {
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return 0, fmt.Errorf("ip netns list: %w", err)
	}
	names := leftovers(string(list), isNemesis)
	var errs []error
	for _, n := range names {
		errs = append(errs, run("ip netns del "+n, ""))
	}
	for _, root := range memoryRoots(os.Getpid()) {
		groups, err := filepath.Glob(filepath.Join(root, "rf*-memory"))
		errs = append(errs, err)
		for _, g := range groups {
			if len(leftovers(filepath.Base(g), isNemesis)) > 0 {
				errs = append(errs, os.Remove(g))
			}
		}
	}
	return len(names), errors.Join(errs...)
}

// isNemesis reports whether a process may run this program, which may be built under any name that ends as tests do: numbers of processes come round again.
func isNemesis(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasSuffix(strings.TrimSuffix(theirs, " (deleted)"), ".test")
}

func run(command, stdin string) error {
	f := strings.Fields(command)
	c := exec.Command(f[0], f[1:]...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// rules says what a namespace drops. Empty fields drop nothing.
type rules struct {
	in, out []string // from and to these addresses
	udpOnly bool
	refuse  bool    // answer what comes in by TCP with a reset, instead of dropping it
	open    bool    // only what belongs to TCP connections that are open now, from and to in: new ones are taken
	loss    float64 // this part of all packets that come in, of 1
}

// marks counts the marks by which connections are told apart: each begins after a rules.open, and has a mark that older ones do not have.
var marks atomic.Int32

// drop replaces what a namespace drops, in one transaction.
func drop(ns string, r rules) error {
	mark := marks.Add(1)
	var b strings.Builder
	b.WriteString("table inet nemesis {}\ndelete table inet nemesis\ntable inet nemesis {\n")
	for _, c := range []struct {
		hook, match string
		ips         []string
	}{{"input", "ip saddr", r.in}, {"output", "ip daddr", r.out}} {
		fmt.Fprintf(&b, "chain %s { type filter hook %s priority 0; policy accept;\n", c.hook, c.hook)
		if r.open {
			fmt.Fprintf(&b, "tcp flags & (syn | ack) == syn ct mark set %d\n%s { %s } meta l4proto tcp ct mark != %d drop\n}\n", mark, c.match, strings.Join(r.in, ", "), mark)
			continue
		}
		if len(c.ips) > 0 {
			fmt.Fprintf(&b, "%s { %s } ", c.match, strings.Join(c.ips, ", "))
			if r.udpOnly {
				b.WriteString("meta l4proto udp ")
			}
			if r.refuse && c.hook == "input" {
				b.WriteString("meta l4proto tcp reject with tcp reset\n")
			} else {
				b.WriteString("drop\n")
			}
		}
		if r.loss > 0 && c.hook == "input" {
			fmt.Fprintf(&b, "meta iifname != lo numgen random mod 100000 < %d drop\n", int(r.loss*100_000))
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return run("ip netns exec "+ns+" nft -f -", b.String())
}
