package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// The index of alarms: kind ‖ time ‖ class ‖ 0 ‖ key, with an empty value. The time is in milliseconds since the epoch, big endian, so that
// the index is in the order in which alarms are due. No alarm is due at or before the epoch.

const alarmHead = 1 + 8

// AlarmKey is where an object's alarm stands in the index. at is positive; neither part of the object may contain NUL.
func AlarmKey(at int64, class, key string) []byte {
	b := make([]byte, 0, alarmHead+len(class)+1+len(key))
	b = binary.BigEndian.AppendUint64(append(b, kindAlarm), uint64(at))
	b = append(append(b, class...), 0)
	return append(b, key...)
}

// IsAlarmKey reports whether key is one of the index of alarms.
func IsAlarmKey[T string | []byte](key T) bool { return len(key) > 0 && key[0] == kindAlarm }

// ParseAlarmKey takes apart what AlarmKey made. ok is false for anything else.
func ParseAlarmKey(b []byte) (at int64, class, key string, ok bool) {
	if len(b) < alarmHead || b[0] != kindAlarm {
		return 0, "", "", false
	}
	t := binary.BigEndian.Uint64(b[1:])
	c, k, found := bytes.Cut(b[alarmHead:], []byte{0})
	if !found || t == 0 || t > math.MaxInt64 || len(c) == 0 || len(k) == 0 || bytes.IndexByte(k, 0) >= 0 {
		return 0, "", "", false
	}
	return int64(t), string(c), string(k), true
}

// AlarmRange is where the index of alarms begins, and where it ends.
func AlarmRange() (start, end []byte) { return []byte{kindAlarm}, []byte{kindAlarm + 1} }

// DescribeKey says in words what a key of a shard's state is.
func DescribeKey(key []byte) string {
	if at, class, k, ok := ParseAlarmKey(key); ok {
		return fmt.Sprintf("the index of alarms, of %s/%s at %s", class, k, time.UnixMilli(at).UTC().Format(time.RFC3339))
	}
	if len(key) == 0 {
		return "the empty key"
	}
	if key[0] == kindSystem {
		return fmt.Sprintf("the record %q of the system shard", key[1:])
	}
	class, rest, ok := bytes.Cut(key[1:], []byte{0})
	if object, item, more := bytes.Cut(rest, []byte{0}); ok && more {
		switch key[0] {
		case kindObject:
			return fmt.Sprintf("key %q of %s/%s", item, class, object)
		case kindMeta:
			return fmt.Sprintf("record %x of %s/%s", item, class, object)
		}
	}
	return fmt.Sprintf("key %x", key)
}
