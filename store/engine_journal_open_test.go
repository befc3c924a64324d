package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ringfence/ringfence/ring"
)

// readLog is a log as one text.
func readLog(t *testing.T, e *Engine, g ring.GroupID) string {
	t.Helper()
	var s strings.Builder
	must(t, e.ScanEntries(g, 0, endOfLog, func(i uint64, v []byte) error {
		fmt.Fprintf(&s, "%d=%s ", i, v)
		return nil
	}))
	v, _, err := e.GroupRecord(g, RecordHardState)
	must(t, err)
	return s.String() + string(v)
}

// resealed is a record of a number with the checksum that it should have.
func resealed(number uint64, rec []byte) []byte {
	binary.BigEndian.PutUint32(rec, journalSum(number, rec[4:]))
	return rec
}

// TestDamagedJournal: each kind of damage is an error at open that names directory, record and remedy.
func TestDamagedJournal(t *testing.T) {
	record := func(e *Engine, n uint64) []byte {
		v, _, _ := e.get(appendRecordNumber(nil, n))
		return v
	}
	for _, tc := range []struct {
		name   string
		damage func(e *Engine, b *pebble.Batch) error
		want   string
	}{
		{"a flipped bit", func(e *Engine, b *pebble.Batch) error {
			v := record(e, 3)
			v[len(v)-1] ^= 1
			return b.Set(appendRecordNumber(nil, 3), v, nil)
		}, "record 3 of the logs' journal: a wrong checksum"},
		{"one is missing", func(e *Engine, b *pebble.Batch) error { return b.Delete(appendRecordNumber(nil, 3), nil) },
			"record 4 of the logs' journal: record 3 is missing"},
		{"one under another number", func(e *Engine, b *pebble.Batch) error {
			return b.Set(appendRecordNumber(nil, 3), record(e, 4), nil)
		}, "record 3 of the logs' journal: a wrong checksum"},
		{"number 0", func(e *Engine, b *pebble.Batch) error {
			return b.Set(appendRecordNumber(nil, 0), resealed(0, record(e, 4)), nil)
		}, "record 0 of the logs' journal"},
		{"another format", func(e *Engine, b *pebble.Batch) error {
			v := record(e, 3)
			v[4] = 9
			return b.Set(appendRecordNumber(nil, 3), resealed(3, v), nil)
		}, "record 3 of the logs' journal: format 9"},
		{"an unknown item", func(e *Engine, b *pebble.Batch) error {
			return b.Set(appendRecordNumber(nil, 3), resealed(3, append(record(e, 3), 77, 1)), nil)
		}, "record 3 of the logs' journal: an item of kind 77"},
		{"an item that ends too soon", func(e *Engine, b *pebble.Batch) error {
			return b.Set(appendRecordNumber(nil, 3), resealed(3, append(record(e, 3), itemEntry, 1, 9, 100)), nil)
		}, "declares 100 bytes where 0 are left"},
		{"an item without a group", func(e *Engine, b *pebble.Batch) error {
			return b.Set(appendRecordNumber(nil, 3), resealed(3, append(record(e, 3), itemClear)), nil)
		}, "ends within a number"},
		{"an entry far away", func(e *Engine, b *pebble.Batch) error {
			rec := binary.AppendUvarint(append(record(e, 3), itemEntry, 1), 1<<60)
			return b.Set(appendRecordNumber(nil, 3), resealed(3, append(rec, 0)), nil)
		}, "entry 1152921504606846976 is far away"},
		{"a short record", func(e *Engine, b *pebble.Batch) error { return b.Set(appendRecordNumber(nil, 3), []byte{1, 2}, nil) }, "record 3 of the logs' journal: a wrong checksum"},
		{"a key of another length", func(e *Engine, b *pebble.Batch) error { return b.Set([]byte{spaceJournal, 7}, nil, nil) }, "key 0507 is no record"},
		{"a log's key without a group", func(e *Engine, b *pebble.Batch) error { return b.Set([]byte{spaceLog, 7}, nil, nil) }, "key 0307 belongs to no group"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := vfs.NewMem()
			e := openTest(t, fs, "/data")
			b := e.NewBatch()
			for i := range uint64(5) {
				b.SetEntry(1, i+1, []byte("head"), []byte("data"))
				must(t, b.Commit(true))
			}
			bad := e.db.NewBatch()
			must(t, tc.damage(e, bad))
			must(t, bad.Commit(pebble.Sync))
			must(t, e.Close())
			_, err := Open("/data", testOptions(fs))
			wantError(t, err, "/data", "damaged", "empty the directory", tc.want)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
			_, err = OpenReadOnly("/data", testOptions(fs))
			wantError(t, err, "/data", "damaged", tc.want)
		})
	}
}

// TestRecordThatVanishes: what is read from a record that is not there any more is an error, not nothing.
func TestRecordThatVanishes(t *testing.T) {
	e := openTest(t, vfs.NewMem(), "/data")
	b := e.NewBatch()
	b.SetEntry(1, 1, []byte("head"), nil)
	b.SetRecord(1, RecordHardState, []byte("hard"))
	must(t, b.Commit(true))
	must(t, e.db.Delete(appendRecordNumber(nil, 1), pebble.Sync))
	_, _, err := e.Entry(1, 1)
	wantError(t, err, "record 1")
	_, _, err = e.GroupRecord(1, RecordHardState)
	wantError(t, err, "record 1")
}

// TestRecordThatLacksSomething: if a record is not what it was, and what it said is to be moved, the process ends.
func TestRecordThatLacksSomething(t *testing.T) {
	fatal := make(chan string, 1)
	opts := testOptions(vfs.NewMem())
	opts.JournalBytes = 1 << 20
	opts.Fatal = func(msg string) {
		fatal <- msg
		runtime.Goexit()
	}
	e, err := Open("/data", opts)
	must(t, err)
	defer e.Close()
	b := e.NewBatch()
	b.SetEntry(1, 1, []byte("head"), nil)
	must(t, b.Commit(true))
	must(t, e.db.Set(appendRecordNumber(nil, 1), resealed(1, []byte{0, 0, 0, 0, journalFormat}), pebble.NoSync))
	came := make(chan error, 1)
	go func() {
		b := e.NewBatch()
		b.SetEntry(2, 1, nil, make([]byte, 2<<20))
		came <- b.Commit(false)
	}()
	select {
	case msg := <-fatal:
		wantError(t, errors.New(msg), "record 1", "lacks 1 things", "data directory /data is damaged", "empty the directory")
	case err := <-came:
		t.Fatalf("came back with %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing happened")
	}
}

// TestFormat1: a directory in which each entry and each hard state has a key of its own is read as it is, goes on with a journal, and is of format 2 from then on.
func TestFormat1(t *testing.T) {
	old := func(t *testing.T) *vfs.MemFS {
		fs := vfs.NewMem()
		e := openTest(t, fs, "/d")
		must(t, e.CreateReplica(1, 1, nil))
		must(t, e.CreateReplica(2, 1, nil))
		must(t, e.WriteWatermark(nil))
		b := e.db.NewBatch()
		for g := ring.GroupID(1); g <= 2; g++ {
			for i := range uint64(9) {
				must(t, b.Set(appendEntryKey(nil, g, 10+i), fmt.Append(nil, "old", 10+i), nil))
			}
			must(t, b.Set(appendRecordKey(nil, g, RecordHardState), []byte("oldhard"), nil))
		}
		must(t, b.DeleteRange([]byte{spaceJournal}, []byte{spaceJournal + 1}, nil))
		must(t, b.Commit(pebble.Sync))
		must(t, e.writeFile(fileFormat, fmt.Appendf(nil, "ringfence-data 1 node %v\n", e.Identity().Node)))
		must(t, e.Close())
		return fs
	}
	format := func(t *testing.T, fs vfs.FS) string {
		e := newEngine("/d", testOptions(fs))
		b, err := e.readFile(fileFormat)
		must(t, err)
		return strings.Fields(string(b))[1]
	}
	const all = "10=old10 11=old11 12=old12 13=old13 14=old14 15=old15 16=old16 17=old17 18=old18 oldhard"

	t.Run("read only", func(t *testing.T) {
		fs := old(t)
		e, err := OpenReadOnly("/d", testOptions(fs))
		must(t, err)
		if got := readLog(t, e, 1); got != all {
			t.Error(got)
		}
		must(t, e.Close())
		if f := format(t, fs); f != "1" {
			t.Errorf("format %s", f)
		}
	})
	for _, journal := range []int{0, 64} { // 64: all is moved at once
		t.Run(fmt.Sprint("goes on, journal=", journal), func(t *testing.T) {
			fs := old(t)
			e := openJournal(t, fs, "/d", journal)
			want := []string{all, all}
			look := func(when string) {
				t.Helper()
				for range 2 {
					for g, w := range want {
						if got := readLog(t, e, ring.GroupID(g+1)); got != w {
							t.Errorf("%s: group %d is\n%s, want\n%s", when, g+1, got, w)
						}
					}
					must(t, e.Close())
					e = openJournal(t, fs, "/d", journal)
				}
				if f := format(t, fs); f != "2" {
					t.Errorf("%s: format %s", when, f)
				}
			}
			look("as it was")
			commit := func(fill func(b *Batch)) {
				b := e.NewBatch()
				fill(b)
				must(t, b.Commit(true))
			}
			commit(func(b *Batch) {
				b.SetEntry(1, 19, []byte("new"), []byte("19"))
				b.SetRecord(1, RecordHardState, []byte("newhard"))
			})
			want[0] = strings.Replace(all, "oldhard", "19=new19 newhard", 1)
			look("an entry more")
			commit(func(b *Batch) { b.SetEntry(1, 17, []byte("new"), []byte("17")); b.DeleteEntries(1, 18, 20) })
			want[0] = strings.Replace(all, "17=old17 18=old18 oldhard", "17=new17 newhard", 1)
			look("the end replaced")
			commit(func(b *Batch) { b.SetEntry(1, 18, []byte("new"), []byte("18")); b.DeleteEntries(1, 0, 16) })
			want[0] = "16=old16 17=new17 18=new18 newhard"
			look("truncated")
			commit(func(b *Batch) { b.DeleteEntries(2, 0, 17) })
			want[1] = "17=old17 18=old18 oldhard"
			look("only truncated")
			commit(func(b *Batch) { b.DeleteEntries(1, 0, 19); b.SetEntry(1, 500, []byte("new"), nil) })
			want[0] = "500=new newhard"
			look("begun anew")
			must(t, e.RemoveReplica(2, 2))
			want[1] = ""
			look("removed")
		})
	}
	t.Run("a later one", func(t *testing.T) {
		fs := old(t)
		e := newEngine("/d", testOptions(fs))
		must(t, e.writeFile(fileFormat, []byte("ringfence-data 3 node 0000000000000001\n")))
		_, err := Open("/d", testOptions(fs))
		wantError(t, err, "/d", "format 3", "reads format 1 or 2", "run the version that wrote it")
	})
}

// FuzzJournal: any bytes are a record or an error, in bounded memory; what can be read is written back as it was.
func FuzzJournal(f *testing.F) {
	e := newEngine("/d", Options{FS: vfs.NewMem(), Logger: quiet})
	f.Add([]byte{journalFormat, itemEntry, 1, 9, 2, 'a', 'b', itemDelete, 1, 3, 9, itemHardState, 1, 1, 'h', itemClear, 1})
	f.Add([]byte{journalFormat, itemEntry, 1, 0xff})
	f.Add([]byte{2})
	f.Add([]byte{journalFormat, itemDelete, 1, 9, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := resealed(7, append(make([]byte, 4), b...)) // or the fuzzer would never get past it
		var all []journalItem
		read := func() error {
			body, err := opened(7, rec)
			if err == nil {
				err = items(body, func(it *journalItem) error { all = append(all, *it); return nil })
			}
			return err
		}
		var err error
		bounded(t, len(b), 64, func() { all, err = nil, nil; err = read() })
		if err != nil {
			return
		}
		all = slices.DeleteFunc(all, func(it journalItem) bool { // nobody writes that
			return it.kind == itemDelete && it.from >= it.to || it.kind == itemEntry && it.from == endOfLog
		})
		w := &Batch{e: e, b: new(pebble.Batch)}
		for _, it := range all {
			switch it.kind {
			case itemEntry:
				w.SetEntry(it.group, it.from, it.value[:len(it.value)/2], it.value[len(it.value)/2:])
			case itemDelete:
				w.DeleteEntries(it.group, it.from, it.to)
			case itemHardState:
				w.SetRecord(it.group, RecordHardState, it.value)
			case itemClear:
				w.item(itemClear, it.group, 0)
			}
		}
		var again []journalItem
		if len(all) > 0 {
			must(t, items(w.record[journalHead:], func(it *journalItem) error { again = append(again, *it); return nil }))
		}
		if !slices.EqualFunc(all, again, func(a, b journalItem) bool {
			return a.compare(&b) == 0 && a.to == b.to && string(a.value) == string(b.value)
		}) {
			t.Fatalf("%+v became %+v", all, again)
		}
		j := newJournal(0)
		if err := j.take(len(rec), rec[journalHead:]); err != nil && !strings.Contains(err.Error(), "far away") && !strings.Contains(err.Error(), "the end of all indices") {
			t.Fatal(err)
		}
	})
}
