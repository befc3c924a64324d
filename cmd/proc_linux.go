package cmd

import "syscall"

// boundToParent makes a child end with this process, however that ends. Ctrl-C reaches this process alone, which then
// stops the children in order.
func boundToParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
