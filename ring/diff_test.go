package ring

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestDiffTellsEveryKindOfChange(t *testing.T) {
	var ms []Member
	for id := range NodeID(4) {
		ms = append(ms, Member{ID: id + 1, Addr: fmt.Sprintf("h%d:1", id+1)})
	}
	a, err := First(ClusterID{1}, ms, 8, 2)
	if err != nil {
		t.Fatal(err)
	}
	b := a.clone()
	b.members[0].State, b.members[0].Boot = Leaving, 7
	b.members[1].Addr = "h9:1"
	b.members[3] = Member{ID: 5, Addr: "h5:1", State: Joining}
	b.system = Assignment{[]Replica{a.system.Replicas[1], a.system.Replicas[0], {Node: 5, ID: 90, Role: Learner}}}
	b.shards[2].Replicas[1].Role = Outgoing
	out := a.shards[2].Replicas[1]
	want := []string{
		"member 0000000000000001 is leaving, not up",
		"member 0000000000000001 has started anew",
		"member 0000000000000002 is at h9:1 and , not h2:1 and ",
		"member 0000000000000004 is none any more",
		"member 0000000000000005 is new, joining",
		"system: 0000000000000002 is preferred, not 0000000000000001",
		fmt.Sprintf("system: replica %d on 0000000000000003 is gone, voter", a.system.Replicas[2].ID),
		"system: replica 90 on 0000000000000005 is new, learner",
		fmt.Sprintf("shard-2: replica %d on %s is outgoing, not voter", out.ID, out.Node),
	}
	if got := words(Diff(a, b)); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if d := Diff(a, a.clone()); len(d) != 0 {
		t.Errorf("a ring differs from its copy: %v", d)
	}
}

func words(cs []Change) (out []string) {
	for _, c := range cs {
		out = append(out, c.String())
	}
	return out
}
