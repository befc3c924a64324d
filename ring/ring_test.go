package ring

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"runtime"
	"strings"
	"testing"
)

func firstRing(t testing.TB, n, shards int) *Ring {
	var ms []Member
	for i := n; i > 0; i-- {
		ms = append(ms, Member{ID: NodeID(i * 1000), Addr: fmt.Sprintf("10.0.0.%d:7420", i), GossipAddr: fmt.Sprintf("10.0.0.%d:7421", i)})
	}
	r, err := First(ClusterID{1, 2, 3}, ms, shards, 3)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFirstRing(t *testing.T) {
	for n, voters := range map[int]int{1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 8: 5} {
		r := firstRing(t, n, 32)
		sys, _ := r.Group(SystemGroup)
		if r.Epoch() != 1 || len(sys.Replicas) != voters || sys.Replicas[0].Node != 1000 {
			t.Errorf("%d members: epoch %d, system shard on %v, want %d voters", n, r.Epoch(), sys.Replicas, voters)
		}
		seen := map[ReplicaID]bool{}
		for g := GroupID(0); ; g++ {
			a, ok := r.Group(g)
			if !ok {
				break
			}
			for _, rep := range a.Replicas {
				if seen[rep.ID] {
					t.Fatalf("replica ID %d is used twice", rep.ID)
				}
				seen[rep.ID] = true
			}
		}
	}
}

func TestCodecRoundTrip(t *testing.T) {
	for _, n := range []int{1, 3, 7} {
		r := firstRing(t, n, 16)
		b := r.Encode()
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Encode(), b) || got.Hash() != r.Hash() || got.Owner(3) != r.Owner(3) {
			t.Fatal("a ring changed on the way")
		}
		for i := range b { // every damaged byte is noticed
			bad := bytes.Clone(b)
			bad[i] ^= 0x10
			if _, err := Decode(bad); err == nil {
				t.Fatalf("byte %d of %d flipped and not noticed", i, len(b))
			}
		}
		for i := range b {
			if _, err := Decode(b[:i]); err == nil {
				t.Fatalf("cut at %d and not noticed", i)
			}
		}
	}
	future := firstRing(t, 1, 4).Encode()
	future[0] = 9
	if _, err := Decode(future); err == nil || !strings.Contains(err.Error(), "format 9; this version reads format 2") {
		t.Fatal(err)
	}
}

// FuzzDecode makes the checksum right itself, or the fuzzer would never get past it.
func FuzzDecode(f *testing.F) {
	for _, n := range []int{1, 2, 5} {
		b := firstRing(f, n, 16).Encode()
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		var r *Ring
		var err error
		// The least of five: the runtime counts for the whole process, and the fuzzer's own goroutines allocate too.
		got := uint64(math.MaxUint64)
		for range 5 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err = Decode(b)
			runtime.ReadMemStats(&after)
			got = min(got, after.TotalAlloc-before.TotalAlloc)
		}
		if got > uint64(64*len(b)+64<<10) {
			t.Fatalf("%d bytes allocated for an input of %d", got, len(b))
		}
		if err != nil {
			return
		}
		again, err := Decode(r.Encode())
		if err != nil || again.Hash() != r.Hash() {
			t.Fatalf("a ring that was decoded does not survive being encoded: %v", err)
		}
	})
}

func TestIDs(t *testing.T) {
	for _, s := range []string{"", "0000000000000000", "12", "xyz0000000000000", "00000000000000001"} {
		if _, err := ParseNodeID(s); err == nil {
			t.Errorf("node ID %q accepted", s)
		}
	}
	if id, err := ParseNodeID(NodeID(0xabc).String()); err != nil || id != 0xabc {
		t.Error(id, err)
	}
	c := ClusterID{0xff, 1}
	if got, err := ParseClusterID(c.String()); err != nil || got != c {
		t.Error(got, err)
	}
	if s, ok := ShardID(7).Group().Shard(); !ok || s != 7 {
		t.Error(s, ok)
	}
	if _, ok := SystemGroup.Shard(); ok {
		t.Error("the system group is a shard")
	}
}

// FuzzParseIDs: what is read as an ID is the one that is written the same way, but for the case of its letters.
func FuzzParseIDs(f *testing.F) {
	f.Add("0000000000000abc")
	f.Add(ClusterID{1, 2, 255}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseNodeID(s); err == nil && id.String() != strings.ToLower(s) {
			t.Fatalf("%q was read as node %v", s, id)
		}
		if id, err := ParseClusterID(s); err == nil && id.String() != strings.ToLower(s) {
			t.Fatalf("%q was read as cluster %v", s, id)
		}
	})
}
