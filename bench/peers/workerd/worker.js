// The class Counter, as a Durable Object, and the way to it over HTTP: POST /KEY/METHOD.
import { DurableObject } from "cloudflare:workers";

export class Counter extends DurableObject {
  async increment() {
    const n = ((await this.ctx.storage.get("n")) ?? 0) + 1;
    this.ctx.storage.put("n", n); // the output gate holds the reply until this is on disk
    return n;
  }
  async get() {
    return (await this.ctx.storage.get("n")) ?? 0;
  }
  async echo(body) {
    return body;
  }
}

export default {
  async fetch(request, env) {
    const [, key, method] = new URL(request.url).pathname.split("/");
    const object = env.counters.get(env.counters.idFromName(key));
    switch (method) {
      case "increment":
        return new Response(String(await object.increment()));
      case "get":
        return new Response(String(await object.get()));
      case "echo":
        return new Response(await object.echo(await request.text()));
    }
    return new Response("no such method", { status: 404 });
  },
};
