//go:build race

package cmd

// raceDetector: this build is several times slower.
const raceDetector = true
