package store

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
)

func TestWatermarkRoundTrip(t *testing.T) {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	if e.Watermark() != nil {
		t.Fatal("a new directory has a watermark")
	}
	marks := []Mark{
		{Group: 9, Replica: 3, Last: 1 << 40, LastTerm: 7, Term: 8, Vote: 3, Commit: 99, Regressed: true},
		{Group: 2, Replica: 1, Last: 5, LastTerm: 2, Term: 2, Vote: 0, Commit: 4},
	}
	must(t, e.WriteWatermark(slices.Clone(marks)))
	must(t, e.Close())
	e = openTest(t, fs, "/d")
	slices.Reverse(marks)
	if got := e.Watermark(); !slices.Equal(got, marks) {
		t.Fatalf("%+v, want %+v", got, marks)
	}
	// Every bit of the file counts.
	b, err := e.readFile(fileWatermark)
	must(t, err)
	for i := range b {
		for bit := range 8 {
			c := slices.Clone(b)
			c[i] ^= 1 << bit
			if _, err := decodeWatermark(c); err == nil {
				t.Fatalf("bit %d of byte %d flipped and not noticed", bit, i)
			}
		}
		if _, err := decodeWatermark(b[:i]); err == nil {
			t.Fatalf("cut to %d bytes and not noticed", i)
		}
	}
}

func TestRegressedRules(t *testing.T) {
	was := Mark{Group: 2, Replica: 5, Last: 100, LastTerm: 7, Term: 7, Vote: 3, Commit: 90}
	voted := Mark{Group: 3, Replica: 5, Last: 100, LastTerm: 6, Term: 7, Vote: 0, Commit: 90}
	marked := Mark{Group: 4, Replica: 5, Last: 1, LastTerm: 1, Term: 1, Commit: 1, Regressed: true}
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	must(t, e.WriteWatermark([]Mark{was, voted, marked}))
	must(t, e.Close())
	e = openTest(t, fs, "/d")
	for _, tc := range []struct {
		name string
		now  Mark
		want string // "" = fine
	}{
		{"as it was", was, ""},
		{"further", Mark{Group: 2, Replica: 5, Last: 120, LastTerm: 8, Term: 9, Vote: 1, Commit: 110}, ""},
		{"a newer term replaced its suffix", Mark{Group: 2, Replica: 5, Last: 95, LastTerm: 6, Term: 8, Vote: 0, Commit: 90}, ""},
		{"older term", Mark{Group: 2, Replica: 5, Last: 100, LastTerm: 6, Term: 6, Vote: 3, Commit: 90}, "term 6"},
		{"vote forgotten", Mark{Group: 2, Replica: 5, Last: 100, LastTerm: 7, Term: 7, Vote: 0, Commit: 90}, "voted for replica 3"},
		{"other vote", Mark{Group: 2, Replica: 5, Last: 100, LastTerm: 7, Term: 7, Vote: 4, Commit: 90}, "now for 4"},
		{"commit behind, later term", Mark{Group: 2, Replica: 5, Last: 89, LastTerm: 7, Term: 8, Vote: 0, Commit: 89}, "commit index is 89"},
		{"shorter in the same term", Mark{Group: 2, Replica: 5, Last: 99, LastTerm: 7, Term: 7, Vote: 3, Commit: 90}, "ends at 99"},
		{"voted since", Mark{Group: 3, Replica: 5, Last: 100, LastTerm: 6, Term: 7, Vote: 2, Commit: 90}, ""},
		{"old suffix replaced in the mark's term", Mark{Group: 3, Replica: 5, Last: 95, LastTerm: 5, Term: 7, Vote: 0, Commit: 90}, ""},
		{"found before", Mark{Group: 4, Replica: 5, Last: 9, LastTerm: 9, Term: 9, Commit: 9}, "earlier start"},
		{"another replica of the group", Mark{Group: 2, Replica: 6}, ""},
		{"no mark", Mark{Group: 8, Replica: 1}, ""},
	} {
		err := e.Regressed(tc.now)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestLostWALTail: the end of the WAL disappears, once by truncation and once by a flipped bit in its last block, which Pebble
// does not notice. The tripwire does, and stays so.
func TestLostWALTail(t *testing.T) {
	for _, damage := range []string{"cut", "flip", "none"} {
		t.Run(damage, func(t *testing.T) {
			fs := vfs.NewMem()
			e := openTest(t, fs, "/d")
			must(t, e.CreateReplica(1, 1, nil))
			for i := range 20 {
				must(t, e.PutRecord("r", []byte{byte(i)}))
			}
			size := walSize(t, fs)
			must(t, e.PutRecord("r", []byte("last")))
			must(t, e.WriteWatermark([]Mark{{Group: 1, Replica: 1}}))
			crashed := copyFS(t, fs)
			editWAL(t, crashed, func(b []byte) []byte {
				switch damage {
				case "cut":
					return b[:size]
				case "flip":
					b[size+8] ^= 4
				}
				return b
			})
			for start := range 3 { // it stays so after the next watermark
				e2 := openTest(t, crashed, "/d")
				err := e2.Regressed(Mark{Group: 1, Replica: 1})
				if damage == "none" {
					must(t, err)
					must(t, e2.CreateReplica(ring.GroupID(2+start), 1, nil))
				} else {
					wantError(t, err, "/d", "lost the end", "empty the directory")
					wantError(t, e2.CreateReplica(2, 1, nil), "lost the end")
				}
				must(t, e2.WriteWatermark([]Mark{{Group: 1, Replica: 1}}))
				must(t, e2.Close())
			}
		})
	}
}

// TestFlippedWALBit: in the middle of a long WAL the damage is an error at open, also in the first WAL of a new directory.
func TestFlippedWALBit(t *testing.T) {
	wantError(t, openFlipped(t), "/d", "damaged", "empty the directory", "comes back as a new node")
}

// openFlipped opens a directory whose log has a flipped bit in its middle.
func openFlipped(t *testing.T) error {
	fs := vfs.NewMem()
	e := openTest(t, fs, "/d")
	for i := range 200 {
		must(t, e.PutRecord("r", append(make([]byte, 1024), byte(i))))
	}
	crashed := copyFS(t, fs)
	editWAL(t, crashed, func(b []byte) []byte { b[40<<10] ^= 1; return b })
	_, err := Open("/d", testOptions(crashed))
	return err
}

// copyFS is what a kill -9 leaves: all that was written, locks gone.
func copyFS(t *testing.T, fs *vfs.MemFS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	ok, err := vfs.Clone(fs, to, "/", "/")
	must(t, err)
	if !ok {
		t.Fatal("nothing copied")
	}
	return to
}

func walPath(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List("/d/db")
	must(t, err)
	slices.Sort(names)
	for _, n := range slices.Backward(names) {
		if strings.HasSuffix(n, ".log") {
			return "/d/db/" + n
		}
	}
	t.Fatalf("no WAL among %v", names)
	return ""
}

func readAll(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	must(t, err)
	b, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	return b
}

func walSize(t *testing.T, fs vfs.FS) int { return len(readAll(t, fs, walPath(t, fs))) }

func editWAL(t *testing.T, fs vfs.FS, edit func([]byte) []byte) {
	t.Helper()
	path := walPath(t, fs)
	b := edit(readAll(t, fs, path))
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(b)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}
