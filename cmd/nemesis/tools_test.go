//go:build linux

package nemesis

import (
	"fmt"
	"os/exec"
	"testing"
)

// optional are the tools that single scenarios need, with their Debian packages.
var optional = map[string]string{"strace": "strace", "mkfs.xfs": "xfsprogs", "xfs_io": "xfsprogs", "mount": "mount"}

// installTools installs what is missing, as far as that goes: a scenario that still lacks a tool says so.
func installTools() {
	missing := map[string]bool{}
	for tool, pkg := range optional {
		if _, err := exec.LookPath(tool); err != nil {
			missing[pkg] = true
		}
	}
	if len(missing) > 0 {
		if err := run("apt-get update -q", ""); err != nil {
			fmt.Printf("nemesis: %v\n", err)
		}
	}
	for pkg := range missing {
		if err := run("apt-get install -y -q "+pkg, ""); err != nil {
			fmt.Printf("nemesis: %v\n", err)
		}
	}
}

// needsTools names a scenario that this machine cannot run in the table, with the reason.
func needsTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			notRun(t, "needs %s: install the package %s, or give -nemesis.install", tool, optional[tool])
		}
	}
}

// notRun ends a test that this machine cannot run. It is in the table, and counts for nothing.
func notRun(t *testing.T, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	report.add(row{name: scenario(t), notRun: why})
	t.Skip("not run: " + why)
}
