package node

import (
	"fmt"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringfence/ringfence/ring"
)

// The answers to the requests "status" and "where", as msgpack on the wire and as JSON on the command line.

// NodeInfo names a node by its ID and its --listen address as others reach it.
type NodeInfo struct {
	ID   string `json:"id" msgpack:"id"`
	Addr string `json:"addr" msgpack:"addr"`
}

// NodeStatus is one node as the answering node sees it.
type NodeStatus struct {
	ID      string `json:"id" msgpack:"id"`
	Addr    string `json:"addr" msgpack:"addr"`
	State   string `json:"state" msgpack:"state"` // joining, up, leaving, suspect or dead
	Version string `json:"version" msgpack:"version"`
	Owned   int    `json:"owned" msgpack:"owned"` // shards it serves now
}

// Status is the answer to "status".
type Status struct {
	Cluster   string       `json:"cluster" msgpack:"cluster"`
	Epoch     uint64       `json:"epoch" msgpack:"epoch"`
	Shards    int          `json:"shards" msgpack:"shards"`
	Replicas  int          `json:"replicas" msgpack:"replicas"`
	Tolerates int          `json:"tolerates" msgpack:"tolerates"` // nodes that may fail at once without a shard or the system shard stopping
	Unowned   int          `json:"unowned" msgpack:"unowned"`     // shards without an owner as far as known
	Nodes     []NodeStatus `json:"nodes" msgpack:"nodes"`
	Moves     []Move       `json:"moves" msgpack:"moves"` // what is under way; empty when the cluster is as it should be
}

// Move is one replica on its way in or out.
type Move struct {
	Group string `json:"group" msgpack:"group"` // shard-N or system
	Step  string `json:"step" msgpack:"step"`   // filling, leaving
	Node  string `json:"node" msgpack:"node"`
}

// NodeRequest is the body of the requests "leave" and "remove": the node that is to go.
func NodeRequest(id string) ([]byte, error) {
	n, err := ring.ParseNodeID(id)
	if err != nil {
		return nil, err
	}
	return msgpack.Marshal(uint64(n))
}

// Where is the answer to "where".
type Where struct {
	Object   string     `json:"object" msgpack:"object"`
	Shard    uint32     `json:"shard" msgpack:"shard"`
	Epoch    uint64     `json:"epoch" msgpack:"epoch"`
	Token    uint64     `json:"token" msgpack:"token"` // 0 if no owner is known
	Owner    NodeInfo   `json:"owner" msgpack:"owner"`
	Replicas []NodeInfo `json:"replicas" msgpack:"replicas"`
}

// DecodeStatus reads the answer to "status"; the bytes may come from anybody.
func DecodeStatus(b []byte) (Status, error) {
	var s Status
	err := decode(b, &s)
	return s, err
}

// DecodeWhere reads the answer to "where"; the bytes may come from anybody.
func DecodeWhere(b []byte) (Where, error) {
	var w Where
	err := decode(b, &w)
	return w, err
}

// WhereRequest is the body of the request "where".
type WhereRequest struct {
	Class string `msgpack:"class"`
	Key   string `msgpack:"key"`
}

// Placed counts, from the answer to a "ring" request, the shards for which placement prefers the member that listens at addr; 0 if there is none.
func Placed(answer []byte, addr string) (placed int, err error) {
	r, err := ring.Decode(answer)
	if err != nil {
		return 0, fmt.Errorf("the answer is no ring: %w", err)
	}
	var self ring.NodeID
	var members []ring.NodeID
	for _, m := range r.Members() {
		if members = append(members, m.ID); m.Addr == addr {
			self = m.ID
		}
	}
	place, err := ring.Place(members, r.Shards(), 1)
	for _, nodes := range place {
		if nodes[0] == self {
			placed++
		}
	}
	return placed, err
}
