package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence/ringfence/node"
)

// Machine is what a measurement was made on and with: what is needed to repeat or doubt it.
type Machine struct {
	At         time.Time `json:"at"`
	Command    string    `json:"command"`
	Version    string    `json:"version"`
	Commit     string    `json:"commit"` // empty: not known
	Modified   bool      `json:"modified"`
	Go         string    `json:"go"`
	Platform   string    `json:"platform"`
	CPU        string    `json:"cpu"` // model
	CPUs       int       `json:"cpus"`
	GOMAXPROCS int       `json:"gomaxprocs"`   // of the callers' process
	Load       float64   `json:"load_average"` // over the minute before; above CPUs, the machine was busy with something else. 0: not known
	Fsync      Fsync     `json:"fsync"`
}

// ThisMachine looks at the machine that it runs on, and measures the disk of a directory; an empty one stands for that of temporary files.
func ThisMachine(dir string) (Machine, error) {
	m := Machine{At: time.Now().UTC().Truncate(time.Second), Command: commandLine(), Version: node.Version, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), Load: loadAverage()}
	m.Commit, m.Modified = commit()
	var err error
	if m.Fsync, err = measureFsync(dir); err != nil {
		return m, fmt.Errorf("measuring the disk: %w", err)
	}
	return m, nil
}

func (m *Machine) commitText() string {
	text := m.Commit[:min(12, len(m.Commit))]
	switch {
	case text == "":
		return "commit unknown"
	case m.Modified:
		return "commit " + text + " with changes"
	}
	return "commit " + text
}

// commandLine is how this program was started, its name without directories.
func commandLine() string {
	if len(os.Args) == 0 {
		return ""
	}
	name := os.Args[0]
	args := append([]string{name[strings.LastIndexByte(name, os.PathSeparator)+1:]}, os.Args[1:]...)
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"$\\*?;&|<>()") {
			args[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(args, " ")
}

// commit is what the binary says that it was built from. One that does not say, as `go run` builds it, is taken to be that of the checkout
// of this module in which it was started, if there is one.
func commit() (string, bool) {
	revision, modified := "", false
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value
			case "vcs.modified":
				modified = s.Value == "true"
			}
		}
	}
	if revision != "" {
		return revision, modified
	}
	if _, err := git("rev-parse", "HEAD:bench/machine.go"); err != nil {
		return "", false
	}
	revision, err := git("rev-parse", "HEAD")
	if err != nil {
		return "", false
	}
	changes, err := git("status", "--porcelain", "--untracked-files=no")
	return revision, err != nil || changes != ""
}

func git(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	return strings.TrimSpace(string(out)), err
}

// loadAverage is how many tasks wanted to run, on average, in the last minute; 0 where Linux does not say.
func loadAverage() (load float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, err = strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// cpuModel is the name that Linux gives the first processor, elsewhere the architecture.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// callersGC is GOGC of a process that callers run in, unless the environment sets one.
const callersGC = 400

// EaseGC lets the collector of this process, in which callers run, come as seldom as a node's by default: what it takes is missing elsewhere, for all systems
// alike. It does nothing if the environment sets GOGC.
func EaseGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(callersGC)
	}
}
