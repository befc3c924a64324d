package client

import (
	"testing"

	"github.com/ringfence/ringfence/actor"
	"github.com/ringfence/ringfence/transport"
)

// What a client sends and reads is what owners read and send: fields go by their msgpack tag, else by their json tag.
func TestArgumentsAreEncodedAsOwnersDo(t *testing.T) {
	type page struct {
		Prefix string `json:"prefix"`
		Limit  int    `json:"n" msgpack:"limit"`
		Plain  bool
	}
	in := page{"a/", 7, true}
	b, enc, err := encode(in)
	if err != nil || enc != transport.EncodingMsgpack {
		t.Fatal(enc, err)
	}
	var owner page
	if err := actor.Unmarshal(b, &owner); err != nil || owner != in {
		t.Errorf("the owner reads %+v, %v", owner, err)
	}
	var names map[string]any
	if err := actor.Unmarshal(b, &names); err != nil || names["prefix"] != "a/" || names["limit"] == nil || names["Plain"] != true {
		t.Errorf("sent as %v, %v", names, err)
	}
	reply, err := actor.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back page
	if err := decodeMsgpack(reply, &back); err != nil || back != in {
		t.Errorf("the client reads %+v, %v", back, err)
	}
}
