package host

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/store"
)

var update = flag.Bool("update", false, "write what the scripts in testdata print as what they should print")

// TestScripts plays testdata/*.txt: a line is a command to a Tenure, the lines under it that begin with two blanks are what it wants done.
func TestScripts(t *testing.T) { playAll(t, "testdata/*.txt", play) }

// playAll plays the scripts that match the pattern: what play prints of each must be what it says.
func playAll(t *testing.T, pattern string, play func(text string) string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			w, g := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range g {
				if i >= len(w) || w[i] != g[i] {
					t.Fatalf("%s:%d: got\n%s", f, i+1, strings.Join(g[max(0, i-3):min(len(g), i+4)], "\n"))
				}
			}
			if len(w) != len(g) {
				t.Fatalf("%s: %d lines, want %d", f, len(g), len(w))
			}
		})
	}
}

type script struct {
	t      *Tenure
	policy Policy
	events map[string]*Event
	ran    map[string]*Activation // by event
	names  map[*Activation]string
	count  map[string]int
	out    strings.Builder
}

func play(text string) string {
	s := &script{t: NewTenure(1), events: map[string]*Event{}, ran: map[string]*Activation{}, names: map[*Activation]string{}, count: map[string]int{}}
	s.policy = Policy{Mailbox: 4, MailboxBytes: 10_000, HeldBytes: 1000, CacheBytes: 1000, IdleTicks: 2}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		for i, a := range s.command(strings.Fields(line)) {
			if i == 0 && a == "" {
				continue
			}
			fmt.Fprintln(&s.out, "  "+a)
		}
	}
	return s.out.String()
}

func (s *script) command(f []string) []string {
	var acts []Action
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	n, _ := strconv.ParseUint(arg(1), 10, 64)
	switch f[0] {
	case "policy":
		s.setPolicy(f[1:])
	case "deliver":
		ev := &Event{Object: actor.ID{Class: "C", Key: arg(2)}, Bytes: 260, Data: arg(1)}
		ev.Inner = arg(3) == "inner"
		if size, ok := strings.CutPrefix(arg(3), "bytes="); ok {
			k, _ := strconv.Atoi(size)
			ev.Bytes += k
		}
		s.events[arg(1)] = ev
		acts = s.t.Deliver(nil, ev, &s.policy)
	case "ended", "reset", "failed":
		e := s.end(f[1:])
		switch ev := s.events[arg(1)]; f[0] {
		case "ended":
			acts = s.t.Ended(nil, ev, e)
		case "reset":
			acts = s.t.Reset(nil, ev, e, "reset of another", nil)
		case "failed":
			acts = s.t.Failed(nil, ev, e)
		}
	case "skip":
		acts = s.t.Skip(nil, s.events[arg(1)], "expired")
	case "yield":
		acts = s.t.Yield(nil, s.events[arg(1)])
	case "regain":
		acts = s.t.Regain(nil, s.events[arg(1)], "turn of "+arg(1))
	case "pin":
		s.t.Pin(s.events[arg(1)])
	case "unpin":
		acts = s.t.Unpin(nil, s.events[arg(1)])
	case "break":
		var queued any
		if arg(2) != "" {
			queued = arg(2)
		}
		acts = s.t.Break(nil, s.ran[arg(1)], "broken", queued)
	case "task":
		ev := &Event{Object: s.ran[arg(2)].Object(), Data: arg(1)}
		s.events[arg(1)] = ev
		var ok bool
		if acts, ok = s.t.Task(nil, s.ran[arg(2)], ev); !ok {
			return []string{"refused"}
		}
	case "submit":
		acts = s.t.Submit(nil, s.ran[arg(1)], s.end(f[1:]).Writes)
	case "await":
		acts = s.t.Await(nil, s.ran[arg(1)], "waiter of "+arg(1))
	case "applied":
		acts = s.t.Applied(nil, n)
	case "confirmed":
		acts = s.t.Confirmed(nil, n)
	case "lost":
		acts = s.t.Lost(nil)
	case "drain":
		acts = s.t.Drain(nil)
	case "tick":
		acts = s.t.Tick(nil)
	case "evict":
		var ok bool
		if acts, ok = s.t.Evict(nil); !ok {
			return []string{"nothing to evict"}
		}
	case "discard":
		var ok bool
		if acts, ok = s.t.Discard(nil, s.ran[arg(1)]); !ok {
			return []string{"busy"}
		}
	case "lookup":
		v, present, found := s.t.Lookup(s.ran[arg(1)], []byte(arg(2)))
		return []string{fmt.Sprintf("%q present=%v found=%v", v, present, found)}
	case "fill":
		s.t.Fill(s.ran[arg(1)], []byte(arg(2)), []byte(arg(3)), arg(3) != "", s.t.Pos(s.ran[arg(1)]))
	case "unapplied":
		ws, _ := s.t.Unapplied(s.ran[arg(1)], []byte(arg(2)), nil)
		return s.writes(ws)
	case "state":
		return []string{fmt.Sprintf("objects=%d activations=%d running=%d held=%d quiet=%v", s.t.objects.n, s.t.Activations(), s.t.Running(), s.t.Held(), s.t.Quiet())}
	default:
		return []string{"unknown command"}
	}
	return s.show(acts)
}

func (s *script) setPolicy(f []string) {
	for _, o := range f {
		k, v, _ := strings.Cut(o, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "mailbox":
			s.policy.Mailbox = n
		case "bytes":
			s.policy.MailboxBytes = n
		case "held":
			s.policy.HeldBytes = n
		case "cache":
			s.policy.CacheBytes = n
		case "stale":
			s.policy.AllowStaleReplies = true
		case "interleaved":
			s.policy.Interleaved = true
		case "reentrant":
			s.policy.Reentrant = true
		case "age":
			s.policy.MaxAge = uint64(n)
		case "window":
			s.policy.Window = n
		}
	}
}

// end reads EVENT [key=value | key= (delete) | touched | denied | bytes:N]…
func (s *script) end(f []string) End {
	e := End{Reply: "reply to " + f[0]}
	for _, w := range f[1:] {
		k, v, write := strings.Cut(w, "=")
		switch {
		case write:
			e.Writes, e.Touched = append(e.Writes, store.Write{Key: []byte(k), Value: []byte(v), Delete: v == ""}), true
		case w == "touched":
			e.Touched = true
		case w == "denied":
			e.Denied, e.Touched = true, true
		case strings.HasPrefix(w, "bytes:"):
			e.Bytes, _ = strconv.Atoi(w[6:])
		}
	}
	return e
}

func (s *script) writes(ws []store.Write) []string {
	out := make([]string, 0, len(ws))
	for _, w := range ws {
		out = append(out, fmt.Sprintf("%s=%s", w.Key, w.Value))
	}
	return out
}

func (s *script) name(a *Activation) string {
	if s.names[a] == "" {
		s.count[a.o.id.Key]++
		s.names[a] = fmt.Sprintf("%s.%d", a.o.id.Key, s.count[a.o.id.Key])
	}
	return s.names[a]
}

func (s *script) show(acts []Action) []string {
	out := make([]string, 0, len(acts))
	for _, a := range acts {
		line := a.Kind.String()
		switch a.Kind {
		case ActStart:
			s.ran[a.Event.Data.(string)] = a.Activation
			line += fmt.Sprintf(" %v on %s", a.Event.Data, s.name(a.Activation))
		case ActSubmit:
			line += fmt.Sprintf(" %d: %s", a.Pos, strings.Join(s.writes(a.Writes), " "))
		case ActConfirm:
			line += fmt.Sprintf(" round %d", a.Round)
		case ActRespond:
			line += fmt.Sprintf(" %v: %v", a.Event.Data, a.Reply)
		case ActRefuse:
			line += fmt.Sprintf(" %v: %v, %v", a.Event.Data, a.Why, a.Outcome)
		case ActWake:
			line += fmt.Sprintf(" %v", a.Waiter)
			if a.Why != 0 {
				line += ": " + a.Why.String()
			}
		case ActDrop:
			line += " " + s.name(a.Activation)
		}
		out = append(out, line)
	}
	return out
}
