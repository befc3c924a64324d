package nodetest

import (
	"bytes"
	"sync"
)

// logBuffer keeps the last of a node's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const logKeep = 64 << 10

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 2*logKeep {
		l.b.Next(l.b.Len() - logKeep)
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
