package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// The stock binary builds and runs; what its commands do is tested in package cmd.
func TestStockBinary(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "ringfence")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.Command(exe, "version", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil || v.Version == "" {
		t.Errorf("version prints %s (%v)", out, err)
	}
}
