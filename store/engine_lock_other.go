//go:build !unix

package store

import (
	"io"
	"os"
)

// lockShared cannot tell here whether a node runs.
func lockShared(name string) (io.Closer, error) { return os.Open(name) }
