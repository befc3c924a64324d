package bench

import (
	"os"
	"slices"
	"time"
)

// Fsync is how long the disk takes to make 4 KiB durable: the floor under every acknowledged write.
type Fsync struct {
	Dir    string `json:"dir"`
	Median Micros `json:"median_us"` // of 50
}

const (
	fsyncWrites = 50
	fsyncBytes  = 4096
)

// measureFsync writes 4 KiB and makes them durable, 50 times, in a file that is removed again.
func measureFsync(dir string) (Fsync, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.CreateTemp(dir, "ringfence-fsync-*")
	if err != nil {
		return Fsync{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, fsyncBytes)
	took := make([]time.Duration, fsyncWrites)
	for i := range took {
		began := time.Now()
		if _, err := f.Write(page); err != nil {
			return Fsync{}, err
		}
		if err := datasync(f); err != nil {
			return Fsync{}, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return Fsync{Dir: dir, Median: Micros(took[len(took)/2].Microseconds())}, nil
}
