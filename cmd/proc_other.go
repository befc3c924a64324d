//go:build !linux

package cmd

import "syscall"

// boundToParent has no way here to make a child end with this process.
func boundToParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
