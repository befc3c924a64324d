// Package freeport finds ports of this machine that are free and stay so until they are bound: for local clusters and tests, which must tell a
// node's address to others before the node binds it.
//
// A port that the kernel chooses (port 0) and that is closed again may be gone a moment later: as the near end of somebody's connection, or chosen for
// another. So ports come from below the range from which systems choose, and each process takes them from a block of its own: it
// listens on the block's first port for as long as it lives, which keeps others away.
package freeport
