package host

import (
	"encoding/binary"
	"time"
)

// alarmRecord is an object's alarm as it is stored beside the object's storage. Times are in milliseconds since the epoch.
type alarmRecord struct {
	scheduled int64  // what SetAlarm was given
	due       int64  // of the next run: scheduled, or later after failures; the index of alarms carries it
	counted   uint8  // failures of the class so far
	uncounted uint32 // failures of the system since the last of the class
	backoff   uint8  // exponent of the next delay
}

const (
	alarmFirstDelay = 2000 // ms
	alarmMaxBackoff = 9    // of the exponent: 1,024 s
	alarmMaxRetries = 6    // counted
	alarmVersion    = 1
	alarmSize       = 1 + 8 + 8 + 1 + 4 + 1
)

func newAlarm(at int64) alarmRecord { return alarmRecord{scheduled: at, due: at} }

func (r *alarmRecord) retry() bool { return r.counted > 0 || r.uncounted > 0 }

// failed is the record after a run that failed at now. byClass: the failure counts. jitter is in [0, 1). ok is false if the alarm is to be given up.
func (r alarmRecord) failed(now int64, byClass bool, jitter float64) (_ alarmRecord, ok bool) {
	if byClass {
		if r.counted >= alarmMaxRetries {
			return r, false
		}
		if r.uncounted > 0 {
			r.uncounted, r.backoff = 0, 0
		}
		r.counted++
	} else if r.uncounted++; r.uncounted == 0 {
		r.uncounted--
	}
	r.due = now + alarmDelay(int(r.backoff), jitter)
	r.backoff = min(r.backoff+1, alarmMaxBackoff)
	return r, true
}

// alarmDelay is how long to wait after a failure: 2 s · 2ⁿ and up to a quarter more.
func alarmDelay(n int, jitter float64) int64 {
	d := int64(alarmFirstDelay) << min(n, alarmMaxBackoff)
	return d + int64(float64(d)/4*jitter)
}

func (r *alarmRecord) encode() []byte {
	b := make([]byte, 0, alarmSize)
	b = append(b, alarmVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(r.scheduled))
	b = binary.BigEndian.AppendUint64(b, uint64(r.due))
	b = append(b, r.counted)
	b = binary.BigEndian.AppendUint32(b, r.uncounted)
	return append(b, r.backoff)
}

// decodeAlarm reads what encode made; ok is false for anything else.
func decodeAlarm(b []byte) (r alarmRecord, ok bool) {
	if len(b) != alarmSize || b[0] != alarmVersion {
		return r, false
	}
	r.scheduled, r.due = int64(binary.BigEndian.Uint64(b[1:])), int64(binary.BigEndian.Uint64(b[9:]))
	r.counted, r.uncounted, r.backoff = b[17], binary.BigEndian.Uint32(b[18:]), b[22]
	ok = r.scheduled > 0 && r.due > 0 && r.counted <= alarmMaxRetries && r.backoff <= alarmMaxBackoff
	return r, ok
}

// nowMilli is the time in full milliseconds; afterMilli the first that is not before now: what is later than both is never early.
func nowMilli() int64 { return time.Now().UnixMilli() }

func afterMilli() int64 { return time.Now().Add(time.Millisecond - 1).UnixMilli() }
