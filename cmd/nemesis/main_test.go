//go:build linux

package nemesis

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/actor/stock"
	"github.com/ringfence/ringfence/cmd"
)

var (
	enabled  = flag.Bool("nemesis", false, "drive real processes in network namespaces; needs root, ip and nft")
	times    = flag.Bool("nemesis.times", true, "fail where a time limit of a scenario is missed; false prints it: for machines that have other work")
	install  = flag.Bool("nemesis.install", false, "install, from Debian packages, the tools that scenarios need and that are missing")
	long     = flag.Bool("nemesis.long", false, "add the long cuts and stops, and more kills")
	idleTime = flag.Duration("nemesis.idle", 20*time.Second, "how long idle nodes are measured")
)

const (
	insideEnv = "NEMESIS_INSIDE" // the network's prefix: this is the inner process
	binaryEnv = "NEMESIS_BINARY"
	dirEnv    = "NEMESIS_DIR"
)

// The inner process's surroundings.
var (
	net    network
	binary string
	dir    string
)

func TestMain(m *testing.M) {
	if os.Getenv(nodeEnv) != "" { // before the flags: these are the command line's
		cmd.Main(append(append(stock.Classes(), watcherClass()), thinkerClasses()...)...)
	}
	flag.Parse()
	if config := os.Getenv(probeEnv); config != "" {
		if err := probeMain(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if config := os.Getenv(loadEnv); config != "" {
		if err := loadMain(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if !*enabled {
		os.Exit(m.Run())
	}
	if prefix := os.Getenv(insideEnv); prefix != "" {
		net, binary, dir = network{prefix}, os.Getenv(binaryEnv), os.Getenv(dirEnv)
		code := m.Run()
		report.print(os.Stdout)
		os.Exit(code)
	}
	code, err := outer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nemesis:", err)
		code = 1
	}
	os.Exit(code)
}

// outer makes the network, runs this program inside it and takes the network away again, whatever came of the tests.
func outer() (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("-nemesis makes network namespaces: run it as root")
	}
	for tool, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return 1, fmt.Errorf("-nemesis needs %s: install the package %s", tool, pkg)
		}
	}
	tmp, made := os.Getenv(dirEnv), false
	if tmp == "" {
		if tmp, err = os.MkdirTemp("", "nemesis-"); err != nil {
			return 1, err
		}
		made = true
	}
	defer func() {
		if made && code == 0 {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	bin, err := build(tmp)
	if err != nil {
		return 1, err
	}
	if *install {
		installTools()
	}
	swept, err := sweep()
	if err != nil {
		return 1, err
	}
	if swept > 0 {
		fmt.Printf("nemesis: removed %d namespaces that a killed run had left\n", swept)
	}
	n, err := makeNetwork()
	defer func() { err = errors.Join(err, n.remove()) }()
	if err != nil {
		return 1, err
	}
	return runInside(n, bin, tmp)
}

func build(tmp string) (string, error) {
	if bin := os.Getenv(binaryEnv); bin != "" {
		bin, err := filepath.Abs(bin)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(bin); err != nil {
			return "", fmt.Errorf("%s: %w", binaryEnv, err)
		}
		return bin, nil
	}
	bin := filepath.Join(tmp, "ringfence")
	c := exec.Command("go", "build", "-o", bin, "../ringfence") // tests run in their package's directory
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the binary: %w\n%s", err, out)
	}
	return bin, nil
}

// runInside passes signals on: the inner process ends, its nodes with it, and then the network goes away.
func runInside(n network, bin, tmp string) (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	c := exec.Command("ip", append([]string{"netns", "exec", n.client(), self}, os.Args[1:]...)...)
	c.Stdin, c.Stdout, c.Stderr = nil, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), insideEnv+"="+n.prefix, binaryEnv+"="+bin, dirEnv+"="+tmp)
	runtime.LockOSThread() // the kernel ends the inner process when this thread ends, which it does with the outer one
	defer runtime.UnlockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := c.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = c.Process.Signal(s) // it may have ended
		case err := <-ended:
			var exit *exec.ExitError
			if err == nil || errors.As(err, &exit) {
				return max(c.ProcessState.ExitCode(), boolInt(err != nil)), nil
			}
			return 1, err
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// needsNemesis skips a test that breaks real networks, unless that was asked for.
func needsNemesis(t *testing.T) {
	t.Helper()
	if !*enabled {
		t.Skip("drives processes in network namespaces as root: run with -nemesis; .ci/run does so for some, where it can")
	}
	r := results(t)
	t.Cleanup(func() { report.ended(r) }) // after all others
}
