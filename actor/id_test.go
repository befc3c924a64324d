package actor

import (
	"errors"
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	long := strings.Repeat("k", MaxKeyBytes)
	for _, c := range []struct {
		in   string
		want ID
		err  string // part of the error; empty if none
	}{
		{"Counter/a", ID{"Counter", "a"}, ""},
		{"Counter/a/b/", ID{"Counter", "a/b/"}, ""},
		{"C//", ID{"C", "/"}, ""},
		{"a_9/ü", ID{"a_9", "ü"}, ""},
		{"C/" + long, ID{"C", long}, ""},
		{strings.Repeat("c", 64) + "/k", ID{strings.Repeat("c", 64), "k"}, ""},
		{"Counter", ID{}, "want CLASS/KEY"},
		{"", ID{}, "want CLASS/KEY"},
		{"/k", ID{}, "want a letter"},
		{"9a/k", ID{}, "want a letter"},
		{"_a/k", ID{}, "want a letter"},
		{"a-b/k", ID{}, "want a letter"},
		{"ä/k", ID{}, "want a letter"},
		{strings.Repeat("c", 65) + "/k", ID{}, "up to 63 letters"},
		{"C/", ID{}, "key is empty"},
		{"C/" + long + "x", ID{}, "1025 bytes"},
		{"C/a\x00b", ID{}, "NUL"},
		{"C/\xff", ID{}, "not UTF-8"},
	} {
		id, err := ParseID(c.in)
		switch {
		case c.err == "":
			if err != nil || id != c.want || id.String() != c.in {
				t.Errorf("ParseID(%.40q) = %v, %v", c.in, id, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, ErrBadArgument):
			t.Errorf("ParseID(%.40q): error %v, want %q", c.in, err, c.err)
		}
	}
}
