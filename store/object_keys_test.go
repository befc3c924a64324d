package store

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestAlarmKeysAreInTheOrderOfTheirTimes(t *testing.T) {
	type alarm struct {
		at         int64
		class, key string
	}
	var all []alarm
	for _, at := range []int64{1, 255, 256, 1_700_000_000_000, math.MaxInt64} {
		for _, class := range []string{"A", "AB", "B"} {
			for _, key := range []string{"\x01", "k", "k\x01", "k/k", "ü"} {
				all = append(all, alarm{at, class, key})
			}
		}
	}
	start, end := AlarmRange()
	byKey := slices.Clone(all)
	slices.SortFunc(byKey, func(a, b alarm) int {
		return bytes.Compare(AlarmKey(a.at, a.class, a.key), AlarmKey(b.at, b.class, b.key))
	})
	slices.SortFunc(all, func(a, b alarm) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.class, b.class), cmp.Compare(a.key, b.key))
	})
	if !slices.Equal(byKey, all) {
		t.Fatalf("order %v, want %v", byKey, all)
	}
	for _, a := range all {
		k := AlarmKey(a.at, a.class, a.key)
		if bytes.Compare(k, start) < 0 || bytes.Compare(k, end) >= 0 || !IsAlarmKey(k) {
			t.Errorf("%v is not in the index", a)
		}
		at, class, key, ok := ParseAlarmKey(k)
		if !ok || (alarm{at, class, key}) != a {
			t.Errorf("%v came back as %v, %v, %v, %v", a, at, class, key, ok)
		}
	}
}

func TestNoOtherKeyIsAnAlarm(t *testing.T) {
	for _, k := range [][]byte{nil, {kindAlarm}, ObjectPrefix("C", "k"), MetaKey("C", "k", MetaAlarm), SystemKey("x"),
		AlarmKey(0, "C", "k"), AlarmKey(-1, "C", "k"), AlarmKey(1, "", "k"), AlarmKey(1, "C", ""), AlarmKey(1, "C", "k\x00"), AlarmKey(1, "C", "k")[:10]} {
		if _, _, _, ok := ParseAlarmKey(k); ok {
			t.Errorf("%x is taken for an alarm", k)
		}
	}
	if start, end := AlarmRange(); bytes.Compare(MetaKey("Z", "\xff", 255), start) >= 0 || bytes.Compare(end, start) <= 0 {
		t.Error("the index overlaps with what the host keeps about objects")
	}
}

func FuzzParseAlarmKey(f *testing.F) {
	f.Add(AlarmKey(1_700_000_000_000, "Class", "a/b"))
	f.Add([]byte{kindAlarm, 0, 0, 0, 0, 0, 0, 0, 1, 'C', 0, 'k', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		at, class, key, ok := ParseAlarmKey(b)
		if !ok {
			return
		}
		if at <= 0 || strings.Contains(class+key, "\x00") || class == "" || key == "" {
			t.Fatalf("%x was read as %d, %q, %q", b, at, class, key)
		}
		if !bytes.Equal(AlarmKey(at, class, key), b) {
			t.Fatalf("%x came back as %x", b, AlarmKey(at, class, key))
		}
	})
}
