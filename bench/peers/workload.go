package main

import (
	"strconv"

	"github.com/ringfence/ringfence/bench"
)

// op is what a workload asks for.
type op int

const (
	increment op = iota // add one to a durable counter and say what it is now
	read                // say what a durable counter is
	echo                // send the payload back; nothing is stored
)

// workload is one row of the comparison.
type workload struct {
	name string
	what string
	op   op
	load bench.Load
}

const payload = 64 // bytes of an echo

// workloads are all, in the order of the table. Duration and warm-up come from the command line.
func workloads() []*workload {
	many := func(l bench.Load) bench.Load { l.Callers, l.Objects = 256, 1000; return l }
	return []*workload{
		{"hot", "durable increments of one object", increment, bench.Load{Callers: 256, Objects: 1}},
		{"spread", "durable increments of 1,000 objects", increment, many(bench.Load{})},
		{"lone", "durable increments of one object, one caller", increment, bench.Load{Callers: 1, Objects: 1}},
		{"lone-spread", "durable increments of 1,000 objects, one caller", increment, bench.Load{Callers: 1, Objects: 1000}},
		{"fresh", "durable increment of a new object with each call", increment, many(bench.Load{Fresh: true})},
		{"read", "reads of 1,000 stored counters", read, many(bench.Load{Reads: 1})},
		{"echo", "64 bytes there and back, 1,000 objects, nothing stored", echo, many(bench.Load{Payload: payload})},
	}
}

// keys are the names of a drive's objects, made before the drive.
type keys struct {
	prefix string
	names  []string
}

func newKeys(prefix string, l bench.Load) *keys {
	k := &keys{prefix: prefix}
	if !l.Fresh {
		k.names = make([]string, l.Objects)
		for i := range k.names {
			k.names[i] = prefix + strconv.Itoa(i)
		}
	}
	return k
}

func (k *keys) name(i int) string {
	if k.names == nil {
		return k.prefix + strconv.Itoa(i)
	}
	return k.names[i]
}
