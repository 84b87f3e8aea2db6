// What the model gets to hear: 1280 samples a step, 16 kHz, -1 to 1: the microphone, digits said by button, and a faint hiss.
// The words in sounds/ were synthesised by docs/page_data.py, in a voice that no model was trained on.

export const SAMPLES = 1280;
const RATE = 16000;
const HISS = 0.001;
const GAP = 10; // steps of silence after a word, so that two words do not run into each other
const LATE = 10; // steps of the microphone's sound that may wait before the oldest is dropped

export class Ears {
  constructor() {
    this._words = new Map();
    this._queue = [];
    this._at = 0;
    this._rest = 0;
    this._heard = [];
    this.microphone = null;
    this.level = 0; // of the last step's sound, 0 to 1
  }

  get busy() {
    return this._queue.length > 0 || this._rest > 0 || this.microphone !== null;
  }

  // Say a digit to the model, and aloud.
  async say(digit) {
    if (!this._words.has(digit)) {
      const answer = await fetch(`sounds/${digit}.wav`);
      if (!answer.ok) throw new Error(`sounds/${digit}.wav: ${answer.status}`);
      const wave = new DataView(await answer.arrayBuffer(), 44); // behind the head of a plain wav file
      const samples = Float32Array.from({ length: wave.byteLength >> 1 }, (_, at) => wave.getInt16(2 * at, true) / 32768);
      this._words.set(digit, samples);
    }
    this._queue.push(this._words.get(digit));
    if (!this.microphone) new Audio(`sounds/${digit}.wav`).play().catch(() => {});
  }

  // The next step's sound.
  sound() {
    const sound = Float32Array.from({ length: SAMPLES }, () => HISS * (2 * Math.random() - 1) * 1.7);
    const word = this._queue[0];
    if (this._rest > 0) this._rest--;
    else if (word) {
      word.subarray(this._at, this._at + SAMPLES).forEach((sample, at) => (sound[at] += sample));
      this._at += SAMPLES;
      if (this._at >= word.length) {
        this._queue.shift();
        [this._at, this._rest] = [0, GAP];
      }
    }
    this._listen().forEach((sample, at) => (sound[at] += sample));
    this.level = Math.min(1, 3 * Math.max(...sound.map(Math.abs)));
    return sound.map((sample) => Math.min(Math.max(sample, -1), 1));
  }

  // Throws what getUserMedia throws.
  async open() {
    if (!navigator.mediaDevices || !window.AudioWorkletNode) throw new DOMException("insecure", "NotSupportedError");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false } });
    const context = new AudioContext();
    await context.audioWorklet.addModule("microphone.js");
    const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0, processorOptions: { rate: RATE } });
    node.port.onmessage = ({ data }) => {
      this._heard.push(data);
      if (this._heard.length > LATE) this._heard.shift();
    };
    context.createMediaStreamSource(stream).connect(node);
    await context.resume();
    this._heard = [];
    this.microphone = { stream, context };
    return stream;
  }

  close() {
    this.microphone?.stream.getTracks().forEach((track) => track.stop());
    this.microphone?.context.close();
    this.microphone = null;
    this._heard = [];
  }

  // The microphone comes in pieces of a step's length.
  _listen() {
    return (this.microphone && this._heard.shift()) || new Float32Array(0);
  }
}
