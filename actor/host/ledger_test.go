package host

import (
	"reflect"
	"testing"
)

// A record of a later version has more fields, one of an earlier version fewer.
func TestRecordsOfOtherVersionsAreRead(t *testing.T) {
	r := record{State: recordAnswered, Seq: 9, At: 1_700_000_000_000, Method: "Add", Arg: []byte{1, 2}, Encoding: 1, Value: []byte{5}}
	b := r.encode()
	if b[0] != 0x9b {
		t.Fatalf("a record begins with %#x, and not as an array of 11", b[0])
	}
	later := append(append([]byte{0x9d}, b[1:]...), 0xc3, 0xa1, 'x')
	earlier := append([]byte{0x97}, b[1:len(b)-4]...) // as far as Value
	for name, b := range map[string][]byte{"later": later, "earlier": earlier} {
		var got record
		if err := got.decode(b); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, r)
		}
	}
}
