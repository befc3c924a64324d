package node

import (
	"log"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ringfence/ringfence/actor/host"
	"github.com/ringfence/ringfence/store"
	"github.com/ringfence/ringfence/store/replica"
	"github.com/ringfence/ringfence/transport/tcp"
)

// metricsHandler serves what a node counts as Prometheus text, from a registry of its own: several nodes may live in one process.
func metricsHandler(n *Node, errs *log.Logger) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorLog: errs, MaxRequestsInFlight: scrapes})
}

// collector reads the counters that the parts of a node keep anyway; nothing is counted twice, and nothing is counted for it.
type collector struct{ n *Node }

// figure is one metric without labels: its name, what it says, and how it is read. A figure per object or per shard is not wanted: there
// may be millions of the one and thousands of the other.
type figure[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*T) float64
}

func gauge[T any](name, help string, read func(*T) float64) figure[T] {
	return figure[T]{prometheus.NewDesc("ringfence_"+name, help, nil, nil), prometheus.GaugeValue, read}
}

func counter[T any](name, help string, read func(*T) float64) figure[T] {
	return figure[T]{prometheus.NewDesc("ringfence_"+name, help, nil, nil), prometheus.CounterValue, read}
}

var buildInfo = prometheus.NewDesc("ringfence_build_info", "Always 1; the labels say what runs.", []string{"version", "goversion"}, nil)

// facts are what every node knows of itself, from its start on.
type facts struct {
	counted
	epoch, shards, members int
	serving                bool
	snapshots              uint64 // bytes sent
}

var factFigures = []figure[facts]{
	gauge("serving", "1 once the node knows an owner of each shard that it has a replica of.", func(f *facts) float64 { return bit(f.serving) }),
	gauge("ring_epoch", "Epoch of the newest ring known, 0 before the first.", func(f *facts) float64 { return float64(f.epoch) }),
	gauge("ring_members", "Nodes in that ring.", func(f *facts) float64 { return float64(f.members) }),
	gauge("ring_shards", "Shards of the cluster.", func(f *facts) float64 { return float64(f.shards) }),
	gauge("shards_owned", "Shards that this node serves now.", func(f *facts) float64 { return float64(f.owned) }),
	gauge("shards_replicated", "Shards with a replica here.", func(f *facts) float64 { return float64(f.replicas) }),
	gauge("shards_unowned", "Shards with a replica here of which this node knows no owner.", func(f *facts) float64 { return float64(f.replicas - f.known) }),
	counter("snapshot_sent_bytes_total", "Bytes of snapshots sent to other nodes.", func(f *facts) float64 { return float64(f.snapshots) }),
	gauge("raft_groups", "Raft groups that run here, the system shard's included.", func(f *facts) float64 { return float64(f.groups) }),
}

var driverFigures = []figure[replica.Stats]{
	counter("raft_rounds_total", "Turns of the driver's loop.", func(s *replica.Stats) float64 { return float64(s.Rounds) }),
	counter("raft_proposed_batches_total", "Owners' batches taken.", func(s *replica.Stats) float64 { return float64(s.Batches) }),
	counter("raft_applied_tasks_total", "Apply tasks stored.", func(s *replica.Stats) float64 { return float64(s.Applied) }),
	counter("raft_sent_frames_total", "Raft frames sent to other nodes.", func(s *replica.Stats) float64 { return float64(s.Frames) }),
	counter("raft_dropped_frames_total", "Received Raft frames dropped for lack of room.", func(s *replica.Stats) float64 { return float64(s.Dropped) }),
	counter("raft_leaderships_total", "Elections that replicas here won, and leaderships handed to them.", func(s *replica.Stats) float64 { return float64(s.Led) }),
	gauge("snapshots_sending", "Snapshots that are being sent, or wait for their turn.", func(s *replica.Stats) float64 { return float64(s.Sending) }),
	counter("snapshots_sent_total", "Snapshots delivered whole.", func(s *replica.Stats) float64 { return float64(s.Sent) }),
	counter("snapshots_given_up_total", "Snapshots that were not delivered; Raft asks again while one is needed.", func(s *replica.Stats) float64 { return float64(s.Unsent) }),
	gauge("snapshots_receiving", "Snapshots that are being received or installed.", func(s *replica.Stats) float64 { return float64(s.Receiving) }),
	counter("snapshots_installed_total", "Snapshots received whole, and stored.", func(s *replica.Stats) float64 { return float64(s.Installed) }),
	counter("disk_writes_total", "Batches of log entries written.", func(s *replica.Stats) float64 { return float64(s.Appends) }),
	counter("disk_appends_total", "Groups' appends in those batches.", func(s *replica.Stats) float64 { return float64(s.Appended) }),
	counter("disk_syncs_total", "Batches written with an fsync.", func(s *replica.Stats) float64 { return float64(s.Syncs) }),
	counter("disk_sync_seconds_total", "Time spent in the batches with an fsync.", func(s *replica.Stats) float64 { return s.SyncTime.Seconds() }),
}

var hostFigures = []figure[host.Metrics]{
	counter("events_started_total", "Events whose code was begun.", func(m *host.Metrics) float64 { return float64(m.Started) }),
	counter("events_ended_total", "Events whose code has ended.", func(m *host.Metrics) float64 { return float64(m.Ended) }),
	counter("events_failed_total", "Events that answered with an error.", func(m *host.Metrics) float64 { return float64(m.Failed) }),
	counter("events_lost_total", "Events that ran and whose answer did not leave because the token was lost.", func(m *host.Metrics) float64 { return float64(m.Lost) }),
	counter("calls_refused_total", "Calls that were not run.", func(m *host.Metrics) float64 { return float64(m.Refused) }),
	counter("activations_reset_total", "Activations thrown away by a panic, an Abort or their constructor.", func(m *host.Metrics) float64 { return float64(m.Resets) }),
	counter("activations_evicted_total", "Activations dropped because they were idle.", func(m *host.Metrics) float64 { return float64(m.Evicted) }),
	counter("lease_confirms_total", "Rounds asked for to confirm a lease before replies leave.", func(m *host.Metrics) float64 { return float64(m.Confirms) }),
	counter("write_batches_total", "Batches of writes that objects submitted.", func(m *host.Metrics) float64 { return float64(m.Batches) }),
	counter("alarms_fired_total", "Alarms whose handler was begun.", func(m *host.Metrics) float64 { return float64(m.AlarmsFired) }),
	counter("alarms_failed_total", "Runs of alarms that failed.", func(m *host.Metrics) float64 { return float64(m.AlarmsFailed) }),
	counter("alarms_retried_total", "Of those, how many are repeated.", func(m *host.Metrics) float64 { return float64(m.AlarmsRetried) }),
	counter("alarms_dropped_total", "Alarms given up after their retries, or for want of a handler.", func(m *host.Metrics) float64 { return float64(m.AlarmsDropped) }),
	gauge("alarms_waiting", "Alarms in memory that wait for their time: the nearest of each shard.", func(m *host.Metrics) float64 { return float64(m.Alarms) }),
	gauge("activations", "Objects in memory.", func(m *host.Metrics) float64 { return float64(m.Activations) }),
	gauge("events_running", "Events that run now.", func(m *host.Metrics) float64 { return float64(m.Running) }),
	gauge("replies_held", "Replies that wait until their writes are durable and the lease is confirmed.", func(m *host.Metrics) float64 { return float64(m.Held) }),
	gauge("calls_unanswered_bytes", "Bytes of calls not yet answered.", func(m *host.Metrics) float64 { return float64(m.Bytes) }),
}

var storeFigures = []figure[store.Stats]{
	gauge("store_files_bytes", "Size of the database's files.", func(s *store.Stats) float64 { return float64(s.DiskBytes) }),
	gauge("store_wal_bytes", "Live part of its write-ahead log.", func(s *store.Stats) float64 { return float64(s.WALBytes) }),
	gauge("store_compaction_debt_bytes", "Estimated bytes that it has yet to rewrite.", func(s *store.Stats) float64 { return float64(s.CompactionDebt) }),
	gauge("store_l0_sublevels", "Sublevels of its level 0; writes slow down when there are many.", func(s *store.Stats) float64 { return float64(s.L0Sublevels) }),
	counter("store_cache_hits_total", "Blocks found in its cache.", func(s *store.Stats) float64 { return float64(s.CacheHits) }),
	counter("store_cache_misses_total", "Blocks read from files.", func(s *store.Stats) float64 { return float64(s.CacheMisses) }),
}

var serverFigures = []figure[tcp.Stats]{
	gauge("connections", "Connections now, those in the handshake included.", func(s *tcp.Stats) float64 { return float64(s.Open) }),
	counter("connections_accepted_total", "Handshakes that succeeded.", func(s *tcp.Stats) float64 { return float64(s.Accepted) }),
	counter("connections_refused_total", "Peers refused by name: another cluster, version or purpose.", func(s *tcp.Stats) float64 { return float64(s.Refused) }),
	counter("connections_garbage_total", "What was no handshake: other protocols, broken frames, silence.", func(s *tcp.Stats) float64 { return float64(s.Garbage) }),
	counter("connections_full_total", "Connections closed because there were too many.", func(s *tcp.Stats) float64 { return float64(s.Full) }),
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	to <- buildInfo
	describe(to, factFigures)
	describe(to, driverFigures)
	describe(to, hostFigures)
	describe(to, storeFigures)
	describe(to, serverFigures)
}

func describe[T any](to chan<- *prometheus.Desc, figures []figure[T]) {
	for _, f := range figures {
		to <- f.desc
	}
}

// Collect implements prometheus.Collector; any goroutine may call it, before Run too.
func (c collector) Collect(to chan<- prometheus.Metric) {
	n := c.n
	to <- prometheus.MustNewConstMetric(buildInfo, prometheus.GaugeValue, 1, Version, runtime.Version())
	collect(to, factFigures, n.facts())
	collect(to, hostFigures, n.host.Metrics())
	collect(to, storeFigures, n.engine.Stats())
	d := n.driver.Load()
	if d == nil {
		return
	}
	collect(to, driverFigures, d.Stats())
	collect(to, serverFigures, n.server.Stats()) // Run sets the server before the driver, and never again
}

func collect[T any](to chan<- prometheus.Metric, figures []figure[T], v T) {
	for _, f := range figures {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&v))
	}
}

// facts are those of this moment.
func (n *Node) facts() (f facts) {
	f.snapshots = n.snapshotBytes.Load()
	select {
	case <-n.serving:
		f.serving = true
	default:
	}
	r, d := n.ring.Load(), n.driver.Load()
	if r == nil {
		return f
	}
	f.epoch, f.shards, f.members = int(r.Epoch()), r.Shards(), len(r.Members())
	if d != nil {
		f.counted = census(n.id, r, d)
	}
	return f
}
