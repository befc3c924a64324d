package replica

import (
	"fmt"
	"testing"

	"github.com/ringfence/ringfence/ring"
	"github.com/ringfence/ringfence/store"
)

// BenchmarkCommit is the path of a batch through three drivers whose disks are memory: from Lease.Commit on the owner to Applied, when a
// majority has stored it and the fence has passed it. With ahead batches of one group under way it is the whole cluster's cost of one, less
// the network and the disk.
func BenchmarkCommit(b *testing.B) {
	for _, ahead := range []int{1, 64} {
		b.Run(fmt.Sprintf("ahead=%d", ahead), func(b *testing.B) { benchCommit(b, ahead) })
	}
}

func benchCommit(b *testing.B, ahead int) {
	_, nodes := startDrivers(b, 1<<20)
	owner := owned(b, nodes...)[0].owner
	owner.mu.Lock()
	l := owner.leases[0]
	owner.mu.Unlock()
	at := tenure{ring.ShardID(0), l.Token()}
	value := make([]byte, 64)
	applied := func(pos uint64) { owner.wait(b, "a commit", func() bool { return owner.applied[at] >= pos }) }
	b.ReportAllocs()
	var last uint64
	for i := 0; b.Loop(); i++ {
		pos, err := l.Commit([]store.Write{{Key: fmt.Appendf(nil, "object/%d/n", i%1000), Value: value}})
		noErr(b, err)
		if last = pos; i%ahead == ahead-1 {
			applied(pos)
		}
	}
	applied(last)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
