using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .counters),
    (name = "data", disk = (path = "DATA", writable = true)),
  ],
  sockets = [(name = "http", address = "ADDRESS", http = (), service = "main")],
);

const counters :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.js")],
  compatibilityDate = "2026-01-01",
  durableObjectNamespaces = [(className = "Counter", uniqueKey = "counters", enableSql = true)],
  durableObjectStorage = (localDisk = "data"),
  bindings = [(name = "counters", durableObjectNamespace = "Counter")],
);
