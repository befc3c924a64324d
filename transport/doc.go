// Package transport is the wire: frames, codes and bodies, with every limit enforced before anything is decoded.
//
// It opens no connection; transport/tcp does. It knows nothing of Raft or of objects: those bodies are opaque here.
package transport
