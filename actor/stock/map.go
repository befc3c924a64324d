package stock

import (
	"context"

	"github.com/ringfence/ringfence/actor"
)

// Map is the class "Map": a small document of keys and values of any kind that can be sent.
//
//	Put(map[string]any) int                               stores all entries, or none; returns how many
//	Get(keys []string) map[string]any                     those of at most 128 keys that exist
//	Delete(keys []string) int                             returns how many of at most 128 keys existed
//	List(ListRequest) ListReply                           a page, in the order of the keys' bytes
func Map() actor.Class { return actor.Define("Map", newMap) }

// ListRequest selects a page of a Map. The zero value is the first page of everything.
type ListRequest struct {
	Prefix  string `json:"prefix,omitempty"`
	After   string `json:"after,omitempty"` // only keys beyond it in the direction of the listing; see ListReply.Next
	Reverse bool   `json:"reverse,omitempty"`
	Limit   int    `json:"limit,omitempty"` // at most so many entries; 0 stands for 100, and 1,000 is the most
}

// ListReply is a page of a Map.
type ListReply struct {
	Entries []MapEntry `json:"entries"`
	Next    string     `json:"next,omitempty"` // give it as After to get the next page; empty on the last
}

// MapEntry is one key with its value.
type MapEntry struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

const (
	pageDefault = 100
	pageMost    = 1000
)

type document struct{ s *actor.Storage }

func newMap(_ context.Context, s *actor.State) (*document, error) {
	return &document{s.Storage()}, nil
}

// Put stores all entries, or none, and returns how many.
func (d *document) Put(ctx context.Context, entries map[string]any) (int, error) {
	return len(entries), d.s.PutMany(ctx, entries)
}

// Get returns those of at most 128 keys that exist.
func (d *document) Get(ctx context.Context, keys []string) (map[string]any, error) {
	found, err := d.s.GetMany(ctx, keys...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, len(found))
	for key, v := range found {
		var value any
		if err := v.Decode(&value); err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
}

// Delete removes at most 128 keys and returns how many existed.
func (d *document) Delete(ctx context.Context, keys []string) (int, error) {
	return d.s.Delete(ctx, keys...)
}

// List returns a page, in the order of the keys' bytes.
func (d *document) List(ctx context.Context, r ListRequest) (*ListReply, error) {
	limit := r.Limit
	switch {
	case limit < 0 || limit > pageMost:
		return nil, actor.Fail("bad-limit", "limit is %d: want 1 to %d, or 0 for %d", limit, pageMost, pageDefault)
	case limit == 0:
		limit = pageDefault
	}
	o := actor.ListOptions{Prefix: r.Prefix, Reverse: r.Reverse, Limit: limit + 1} // one more tells whether there is a next page
	if r.Reverse {
		o.End = r.After
	} else {
		o.StartAfter = r.After
	}
	entries, err := d.s.List(ctx, o)
	if err != nil {
		return nil, err
	}
	reply := &ListReply{Entries: make([]MapEntry, 0, min(len(entries), limit))}
	for i, e := range entries {
		if i == limit {
			reply.Next = reply.Entries[i-1].Key
			break
		}
		entry := MapEntry{Key: e.Key}
		if err := e.Decode(&entry.Value); err != nil {
			return nil, err
		}
		reply.Entries = append(reply.Entries, entry)
	}
	return reply, nil
}
