package replica

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"go.etcd.io/raft/v3"
)

// raftLogger hands Raft's log lines to slog: its news are debug lines to us, its warnings and errors keep their level.
// Panic lines panic, as Raft expects; the driver stops the replica then.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) log(level slog.Level, v ...any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, fmt.Sprint(v...))
	}
}

func (r raftLogger) logf(level slog.Level, format string, v ...any) {
	if r.l.Enabled(context.Background(), level) {
		r.l.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}

func (r raftLogger) Debug(v ...any)                   { r.log(slog.LevelDebug, v...) }
func (r raftLogger) Debugf(format string, v ...any)   { r.logf(slog.LevelDebug, format, v...) }
func (r raftLogger) Info(v ...any)                    { r.log(slog.LevelDebug, v...) }
func (r raftLogger) Infof(format string, v ...any)    { r.logf(slog.LevelDebug, format, v...) }
func (r raftLogger) Warning(v ...any)                 { r.log(slog.LevelInfo, v...) }
func (r raftLogger) Warningf(format string, v ...any) { r.logf(slog.LevelInfo, format, v...) }
func (r raftLogger) Error(v ...any)                   { r.log(slog.LevelError, v...) }
func (r raftLogger) Errorf(format string, v ...any)   { r.logf(slog.LevelError, format, v...) }
func (r raftLogger) Fatal(v ...any)                   { r.Panic(v...) }
func (r raftLogger) Fatalf(format string, v ...any)   { r.Panicf(format, v...) }
func (r raftLogger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (r raftLogger) Panicf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.HasPrefix(format, "tocommit(") {
		panic(lostLog(text))
	}
	panic(text)
}

// lostLog is what Raft says when a leader counts on entries that this replica has acknowledged and has no more.
type lostLog string

func (l lostLog) Error() string {
	return "a leader counts on entries that this replica acknowledged, and its log has lost them: " + string(l)
}

// RaftLogger makes Raft log to l.
func RaftLogger(l *slog.Logger) raft.Logger { return raftLogger{l} }
