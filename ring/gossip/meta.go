package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"

	"github.com/ringfence/ringfence/ring"
)

// Meta is what a node tells about itself; memberlist allows 512 bytes for it.
type Meta struct {
	Boot    ring.BootID
	Cluster ring.ClusterID // zero: none yet
	Epoch   ring.Epoch     // newest ring it knows
	Listen  string         // its --listen address, as others reach it
	Version string         // of the build
	// What it would form, while it has no cluster: see --bootstrap-expect.
	Expect, Shards, Replicas int
	Timing                   string
}

const metaFormat = 1

var errMeta = errors.New("gossip: metadata cannot be read")

// encode returns the metadata's bytes: format, cluster, uvarints, strings with a length byte.
func (m Meta) encode() ([]byte, error) {
	b := append([]byte{metaFormat}, m.Cluster[:]...)
	for _, v := range [...]uint64{uint64(m.Boot), uint64(m.Epoch), uint64(m.Expect), uint64(m.Shards), uint64(m.Replicas)} {
		b = binary.AppendUvarint(b, v)
	}
	for _, s := range [...]string{m.Listen, m.Version, m.Timing} {
		if len(s) > 255 {
			return nil, fmt.Errorf("gossip: %q is longer than 255 bytes", s)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("gossip: metadata of %d bytes; at most %d fit: give a shorter --advertise-listen", len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

// decodeMeta reads metadata; what a newer version appended is ignored.
func decodeMeta(b []byte) (m Meta, err error) {
	if len(b) < 1+len(m.Cluster) {
		return m, errMeta
	}
	if b[0] != metaFormat {
		return m, fmt.Errorf("gossip: metadata of format %d; this version reads format %d", b[0], metaFormat)
	}
	copy(m.Cluster[:], b[1:])
	b = b[1+len(m.Cluster):]
	var v [5]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(b); n <= 0 {
			return m, errMeta
		}
		b = b[n:]
	}
	m.Boot, m.Epoch = ring.BootID(v[0]), ring.Epoch(v[1])
	m.Expect, m.Shards, m.Replicas = int(v[2]&0xffff), int(v[3]&0xffff), int(v[4]&0xffff)
	for _, s := range [...]*string{&m.Listen, &m.Version, &m.Timing} {
		if len(b) < 1 || int(b[0]) > len(b)-1 {
			return m, errMeta
		}
		n := 1 + int(b[0]) // as an int: a byte of 255 and one more is 0
		*s, b = string(b[1:n]), b[n:]
	}
	return m, nil
}
