package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A write that came second is a lost race, in each of the ways in which a server and its client say so; anything else is an error.
func TestLostRace(t *testing.T) {
	stored := &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence}
	onItsWay := &jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("nats: %w", stored), true},
		{fmt.Errorf("%w: %w", onItsWay, jetstream.ErrKeyExists), true},           // of a Create
		{fmt.Errorf("%w: %w", onItsWay, jetstream.ErrKeyRevisionMismatch), true}, // of an Update
		{nats.ErrTimeout, false},
		{errors.New("no responders"), false},
		{nil, false},
	} {
		if got := lostRace(c.err); got != c.want {
			t.Errorf("%v: got %v", c.err, got)
		}
	}
}
