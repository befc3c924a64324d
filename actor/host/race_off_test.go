//go:build !race

package host

// raceDetector: this build is several times slower.
const raceDetector = false
