package store

import (
	"bytes"
	"encoding/binary"
	"math"
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
