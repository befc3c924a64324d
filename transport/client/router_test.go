package client

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ringfence/ringfence/ring"
)

var update = flag.Bool("update", false, "rewrite the golden scripts of the router")

// TestRouterScripts plays testdata/router/*.txt: a line that starts with "> " is an event, the lines under it are the actions.
func TestRouterScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/router/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { playScript(t, f) })
	}
}

func playScript(t *testing.T, file string) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := player{t: t, s: newStream(4, 1), calls: map[string]*call{}, names: map[*call]string{}}
	p.v.routes = &routes{}
	var got strings.Builder
	lines := bufio.NewScanner(strings.NewReader(string(want)))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "> "):
			got.WriteString(line + "\n")
			got.WriteString(p.play(strings.Fields(line[2:])))
		case strings.HasPrefix(line, "#") || line == "":
			got.WriteString(line + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got.String(), want)
	}
}

type player struct {
	t     *testing.T
	s     stream
	v     view
	calls map[string]*call
	names map[*call]string
}

func (p *player) play(words []string) string {
	args := words[1:]
	options := map[string]string{}
	for _, w := range args {
		if k, v, ok := strings.Cut(w, "="); ok {
			options[k] = v
		}
	}
	switch words[0] {
	case "ring": // ring PREFERRED,REPLICA…
		p.v.routes = &routes{replicas: [][]ring.NodeID{nil}, addrs: map[ring.NodeID]string{}}
		for _, n := range strings.Split(args[0], ",") {
			p.v.routes.replicas[0] = append(p.v.routes.replicas[0], p.node(n))
			p.v.routes.addrs[p.node(n)] = "addr-" + n
		}
		return ""
	case "node": // node N: has an address but no replica of the shard
		p.v.routes.addrs[p.node(args[0])] = "addr-" + args[0]
		return ""
	case "rest": // rest N: it said go-away, or could not be reached
		p.v.rests = append(p.v.rests, rest{node: p.node(args[0]), until: time.Unix(1, 0)})
		return ""
	case "wake": // wake N
		p.v.rests = slices.DeleteFunc(p.v.rests, func(e rest) bool { return e.node == p.node(args[0]) })
		return ""
	case "hint": // hint N token=T: learned by another stream
		p.v.hint = p.hint(args[0], options["token"])
		return ""
	case "enter": // enter C [again]: with an idempotency key
		c := &call{}
		c.again = len(args) > 1 && args[1] == "again"
		p.calls[args[0]], p.names[c] = c, args[0]
		p.s.enter(c, &p.v)
	case "giveup":
		p.s.giveUp(p.calls[args[0]])
	case "retry":
		p.s.retry(&p.v)
	default:
		p.s.answered(p.calls[args[0]], p.answer(words[0], options), &p.v)
	}
	return p.actions()
}

func (p *player) answer(kind string, o map[string]string) answer {
	kinds := map[string]answerKind{"ok": answerOK, "ran": answerRan, "refused": answerRefused, "failed": answerFailed,
		"overloaded": answerFailed, "unsent": answerUnsent, "maybe": answerMaybe, "lost": answerLost, "full": answerFull}
	k, ok := kinds[kind]
	if !ok {
		p.t.Fatalf("script: unknown event %q", kind)
	}
	a := answer{kind: k, overloaded: kind == "overloaded", text: kind}
	if o["hint"] != "" {
		a.hint = p.hint(o["hint"], o["token"])
	} else if o["token"] != "" {
		a.hint = p.hint("0", o["token"])
	}
	return a
}

func (p *player) hint(node, token string) hint {
	h := hint{node: p.node(node)}
	if token != "" {
		n, err := strconv.ParseUint(token, 10, 64)
		if err != nil {
			p.t.Fatalf("script: token %q", token)
		}
		h.token = n
	}
	return h
}

func (p *player) node(s string) ring.NodeID {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		p.t.Fatalf("script: node %q", s)
	}
	return ring.NodeID(n)
}

var verdictNames = map[verdict]string{verdictReply: "reply", verdictLost: "lost", verdictFull: "full", verdictQueueFull: "queue-full",
	verdictOvertaken: "overtaken", verdictNotRun: "not-run", verdictMayHaveRun: "may-have-run"}

func (p *player) actions() string {
	var b strings.Builder
	for _, a := range p.s.out {
		switch a.kind {
		case actSend:
			how := "same connection"
			if a.fresh {
				how = "any connection"
			}
			fmt.Fprintf(&b, "send %s to %d, generation %d, %s\n", p.names[a.call], uint64(a.node), p.s.gen, how)
		case actComplete:
			fmt.Fprintf(&b, "complete %s: %s", p.names[a.call], verdictNames[a.verdict])
			if a.verdict == verdictReply {
				fmt.Fprintf(&b, " %s", a.answer.text)
			} else if a.call.last != "" {
				fmt.Fprintf(&b, " (tries %d, last %d: %s)", a.call.tries, uint64(a.call.asked), a.call.last)
			}
			if a.call.mayBe {
				b.WriteString(", may have run")
			}
			b.WriteByte('\n')
		case actLearn:
			fmt.Fprintf(&b, "learn %d token %d\n", uint64(a.hint.node), a.hint.token)
		case actFetch:
			b.WriteString("fetch ring\n")
		case actRetry:
			fmt.Fprintf(&b, "retry after %v\n", a.delay)
		}
	}
	return b.String()
}
