// One WebSocket to the server and the sessions that go through it, as /schema.json describes. It connects again by itself,
// and sends again, under its number, what was not acknowledged.

const IN_FLIGHT = 3; // steps of a session that may wait for their replies
const FIRST_PAUSE = 250, LONGEST_PAUSE = 8000; // ms before it tries again
const RESEND = 300; // ms

export const random = (bytes) =>
  [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class Refused extends Error {
  constructor(said) {
    super(said.message);
    Object.assign(this, { code: said.code, retry: said.retry ?? false });
  }
}

export class Connection {
  // status(name, detail) is told "connecting", "open", "lost" (detail: ms until it tries again) or "token" (one is needed).
  constructor(status) {
    this.status = status;
    this.sessions = new Map();
    this.token = "";
    this.welcome = null;
    this.open = false; // whether sessions are attached and messages can go
    this._pending = new Map();
    this._request = 0;
    this._pause = FIRST_PAUSE;
    addEventListener("online", () => this.retry());
  }

  connect() {
    clearTimeout(this._timer);
    this.status("connecting");
    const url = new URL("v1/connect", location.href.replace(/^http/, "ws"));
    let socket;
    try {
      socket = new WebSocket(url, this.token ? ["tokenturing", `bearer.${this.token}`] : ["tokenturing"]);
    } catch {
      this.status("token", "This token has characters that a browser cannot send.");
      return;
    }
    this._socket = socket;
    socket.onmessage = ({ data }) => this._receive(JSON.parse(data));
    socket.onclose = () => socket === this._socket && this._lost();
  }

  retry() {
    if (this.open) return;
    this._drop();
    this._pause = FIRST_PAUSE;
    this.connect();
  }

  // An answer to a message that has one; over a lost connection it is asked again.
  ask(message) {
    const request = ++this._request;
    const text = JSON.stringify({ ...message, request });
    return new Promise((resolve, reject) => {
      this._pending.set(request, { text, resolve, reject, session: message.session });
      if (this.open) this._send(text);
    });
  }

  hold(session) {
    this.sessions.set(session.id, session);
    if (this.welcome) this._attach(session);
  }

  release(session) {
    this.sessions.delete(session.id);
    session.attached = false;
  }

  _send(text) {
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(text);
  }

  _drop() {
    const socket = this._socket;
    this._socket = null;
    this.welcome = null;
    this.open = false;
    socket?.close();
    for (const session of this.sessions.values()) session.attached = false;
  }

  async _lost() {
    this._drop();
    const pause = this._pause * (0.75 + Math.random() / 2);
    this._pause = Math.min(2 * this._pause, LONGEST_PAUSE);
    this.status("lost", pause);
    this._timer = setTimeout(() => this.connect(), pause);
    // A browser does not say why a WebSocket was refused: plain HTTP does.
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const answer = await fetch("v1/models", { headers, cache: "no-store" }).catch(() => null);
    if (answer?.status === 401 && !this.open) {
      clearTimeout(this._timer);
      this.status("token", this.token ? "The server does not know this token." : "");
    }
  }

  async _attach(session) {
    const { id, secret } = session;
    try {
      const opened = await this._once({ type: "attach", session: id, secret });
      session.begin(opened);
    } catch (error) {
      if (error.retry) setTimeout(() => this.sessions.has(id) && this.welcome && this._attach(session), 3 * RESEND);
      else session.onrefused(error);
    }
  }

  // As `ask`, but given up with the connection.
  _once(message) {
    const request = ++this._request;
    return new Promise((resolve, reject) => {
      this._pending.set(request, { resolve, reject, once: true });
      this._send(JSON.stringify({ ...message, request }));
    });
  }

  async _welcome(message) {
    this.welcome = message;
    this._pause = FIRST_PAUSE;
    for (const [request, pending] of this._pending) if (pending.once) this._pending.delete(request);
    const waiting = [...this._pending.values()];
    await Promise.all([...this.sessions.values()].map((session) => this._attach(session)));
    for (const { text } of waiting) this._send(text);
    this.open = true;
    this.status("open");
  }

  _receive(message) {
    if (message.type === "welcome") return void this._welcome(message);
    const pending = this._pending.get(message.request);
    if (pending) {
      this._pending.delete(message.request);
      if (message.type === "error") pending.reject(new Refused(message));
      else pending.resolve(message);
      return;
    }
    this.sessions.get(message.session)?.receive(message);
  }
}

export class Session {
  // callbacks: onreply(Stepped), onbegin(Opened), onrefused({code, message}), onmoved(reason)
  constructor(connection, { id, secret }, callbacks) {
    Object.assign(this, { connection, id, secret, attached: false, seq: 0, _unacknowledged: [] }, callbacks);
  }

  get ready() {
    return this.attached && this._unacknowledged.length < IN_FLIGHT;
  }

  step(inputs) {
    const seq = ++this.seq;
    const text = JSON.stringify({ type: "step", session: this.id, seq, inputs });
    this._unacknowledged.push({ seq, text });
    this.connection._send(text);
  }

  // After open, fork or attach: go on behind the last input that the server has.
  begin(opened) {
    this.attached = true;
    if (!this._unacknowledged.length || this._unacknowledged[0].seq > opened.seq + 1) this._forget(opened.seq);
    for (const { text } of this._unacknowledged) this.connection._send(text);
    this.onbegin(opened);
  }

  receive(message) {
    if (message.type === "stepped") {
      this._unacknowledged = this._unacknowledged.filter(({ seq }) => seq !== message.seq);
      this.onreply(message);
    } else if (message.type === "gone") {
      this.attached = false;
      this.onmoved(message.reason);
    } else if (message.type === "error" && message.seq !== undefined) {
      this._failed(message);
    }
  }

  _failed({ code, seq, expected, retry, message }) {
    const next = expected ?? seq;
    if (retry || this._unacknowledged.some((step) => step.seq === next && code === "gap")) {
      clearTimeout(this._again);
      this._again = setTimeout(() => {
        if (this.attached) for (const { text } of this._unacknowledged) this.connection._send(text);
      }, RESEND);
    } else if (code === "not_attached") {
      if (this.attached) this.connection.hold(this);
    } else if (this._unacknowledged.length) {
      this._forget(next - 1);
      console.warn(`step ${seq}: ${message}`);
    }
  }

  _forget(seq) {
    this._unacknowledged = [];
    this.seq = seq;
  }
}

const VIEWS = { float32: Float32Array, int64: BigInt64Array };

export function toArray(sent) {
  const bytes = Uint8Array.from(atob(sent.data), (letter) => letter.charCodeAt(0));
  return Array.from(new VIEWS[sent.dtype](bytes.buffer), Number);
}

export function fromArray(values, shape) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return { dtype: "float32", shape, data: btoa(text) };
}
