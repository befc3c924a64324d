package cmd

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/node"
)

// versionInfo is what a bug report needs of a binary.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"` // empty if the binary was built outside a checkout
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "version", Short: "Print the version of this binary", Args: exactly(0)}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(*cobra.Command, []string) error {
		v := thisVersion()
		if asJSON {
			return writeJSON(a.out, v)
		}
		_, err := fmt.Fprintf(a.out, "ringfence %s%s %s %s\n", v.Version, v.commitText(), v.Go, v.Platform)
		return err
	}
	return c
}

func thisVersion() versionInfo {
	v := versionInfo{Version: node.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (v versionInfo) commitText() string {
	if v.Commit == "" {
		return ""
	}
	text := " " + v.Commit[:min(12, len(v.Commit))]
	if v.Modified {
		text += "+changes"
	}
	return text
}
