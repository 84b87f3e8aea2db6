// The microphone at its own rate -> pieces of 1280 samples at another one. Each new sample is a sum of those around its time,
// weighted by a windowed sinc that lets nothing pass above half of the lower rate, so that hissing does not fold into speech.

const PIECE = 1280;
const REACH = 12; // zero crossings of the sinc on either side

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this._step = sampleRate / processorOptions.rate; // samples that come for each that goes
    this._cut = Math.min(1, 1 / this._step) * 0.92;
    this._reach = Math.ceil(REACH / this._cut);
    this._came = new Float32Array(0);
    this._time = this._reach; // of the next sample, counted in those that came
    this._piece = new Float32Array(PIECE);
    this._filled = 0;
  }

  process([[channel]]) {
    if (!channel) return true;
    const came = new Float32Array(this._came.length + channel.length);
    came.set(this._came);
    came.set(channel, this._came.length);
    while (this._time + this._reach < came.length) {
      this._put(this._sampleAt(came, this._time));
      this._time += this._step;
    }
    const used = Math.max(0, Math.floor(this._time) - this._reach);
    this._came = came.slice(used);
    this._time -= used;
    return true;
  }

  _sampleAt(came, time) {
    let sum = 0;
    for (let at = Math.ceil(time - this._reach); at <= time + this._reach; at++) {
      const away = (at - time) * this._cut;
      const sinc = away === 0 ? 1 : Math.sin(Math.PI * away) / (Math.PI * away);
      sum += came[at] * sinc * this._cut * (0.5 + 0.5 * Math.cos((Math.PI * (at - time)) / (this._reach + 1)));
    }
    return sum;
  }

  _put(sample) {
    this._piece[this._filled++] = sample;
    if (this._filled === PIECE) {
      this.port.postMessage(this._piece);
      this._piece = new Float32Array(PIECE);
      this._filled = 0;
    }
  }
}

registerProcessor("microphone", Microphone);
