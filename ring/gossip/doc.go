// Package gossip hears which nodes there are and how new a ring they know, through hashicorp/memberlist. It decides nothing.
//
// Gossip is available, not consistent: two sides of a broken network each hold a complete view, so a view is only ever a hint of
// whom to ask. A node's name is its NodeID; its metadata tell its boot, cluster, --listen address, newest epoch and, before it has a
// cluster, what it would form. Nodes of another cluster are refused; zero, a node without one, is welcome.
//
// memberlist calls back with its own lock held, so callbacks only hand over: the newest view is stored and a signal left. It also never
// heals a long break by itself; a loop tries the seeds and every address ever known, for ever, gently.
package gossip
