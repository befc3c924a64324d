package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ringfence/ringfence/bench"
)

// system is a product that is measured.
type system struct {
	name     string // as --systems and tables have it
	version  string
	settings string // what a reader must know to judge the figures: nodes, durability
	nodes    int
	conns    int // of the client, to each node or, if it says so in settings, to the one that leads
	// start brings up a fresh cluster that keeps its data in dir. An error that is a missing says that it cannot be had here.
	start func(ctx context.Context, e env) (cluster, error)
	// does are the workloads that make sense on it, with the ways in which it can do each. The first way is the one that does what Ringfence does.
	does map[string][]string
}

// env is where a cluster is started.
type env struct {
	dir     string    // of its own, empty
	cache   string    // keeps what was installed, from run to run
	install bool      // whether anything may be installed
	log     io.Writer // what its processes say
	family  *family   // starts processes
	shards  int       // of Ringfence's cluster
}

// cluster is a system that runs.
type cluster interface {
	// open makes a target for one drive, with objects that nobody used before; those of a workload that reads hold a value each.
	open(ctx context.Context, w *workload, way string) (bench.Target, error)
	// cpu is what its processes have used.
	cpu() (time.Duration, error)
	// close ends the processes.
	close() error
}

// missing is why a system cannot be measured here.
type missing struct{ why string }

func (m *missing) Error() string { return m.why }

func missingf(format string, args ...any) error { return &missing{fmt.Sprintf(format, args...)} }

// systems are all, Ringfence first.
func systems() []*system {
	return []*system{ringfenceSystem(), etcdSystem(), natsSystem(), protoActorSystem(), workerdSystem()}
}
